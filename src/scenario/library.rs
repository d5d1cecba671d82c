//! The scenarios that come with the program, by name: `scenarios/course/`.

use super::file::Scenario;

macro_rules! built_in {
    ($($name:literal)+) => {
        /// Names and texts.
        const FILES: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../../scenarios/course/", $name, ".json")))),+
        ];
    };
}

built_in! {
    "simple-1" "simple-2"
    "crash-1" "crash-2" "crash-3"
    "partition-1" "partition-2" "partition-3"
    "lossy-1" "lossy-2" "lossy-3"
    "mixed-1" "mixed-2" "mixed-3"
}

/// All of them, with their names.
pub fn built_in() -> Vec<(&'static str, Scenario)> {
    let parse = |text| Scenario::parse(text).expect("the built-in scenarios are sound");
    FILES.iter().map(|(name, text)| (*name, parse(text))).collect()
}

/// Those of that name, or of that family, such as `crash`; or `all`.
pub fn find(name: &str) -> Vec<(&'static str, Scenario)> {
    let family = |full: &str| full.split_once('-').is_some_and(|(family, _)| family == name);
    built_in().into_iter().filter(|(full, _)| name == "all" || *full == name || family(full)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_built_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/course");
        let files = std::fs::read_dir(folder).expect("the folder").count();
        assert_eq!(files, built_in().len());
        assert_eq!(find("crash").len(), 3);
        assert_eq!(find("crash-2").len(), 1);
        assert!(find("nothing").is_empty());
    }
}
