//! The list of planted bugs is in order, and can be applied to the tree as it is. Whether the simulator finds them is
//! for `scripts/planted.sh` to say: that takes a build of its own, and minutes.

#[path = "planted/list.rs"]
mod list;

use std::fs;
use std::path::Path;

/// Fewer would not be a test of the tests.
const BUGS_MIN: usize = 25;

/// Also makes the copy that `scripts/planted.sh` builds; it costs nothing where it is there already.
#[test]
fn every_bug_can_be_planted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bugs = list::load(root).expect("the files can be read");
    let problems = list::problems(root, &bugs);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let place = root.join("target/planted");
    list::make_copy(root, &place.join("tree"), &bugs).expect("the copy can be made");
    fs::write(place.join("bugs.tsv"), list::index(&bugs)).expect("the list can be written");
}

/// The table in the documentation names the bugs of the list, in its order.
#[test]
fn the_documentation_lists_every_bug() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bugs = list::load(root).expect("the files can be read");
    let text = fs::read_to_string(root.join("docs/planted.md")).expect("docs/planted.md is there");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: Vec<&str> = rows.map(|(name, _)| name).collect();
    assert!(bugs.len() >= BUGS_MIN, "{} bugs, at least {BUGS_MIN} are wanted", bugs.len());
    let names: Vec<&str> = bugs.iter().map(|(_, bug)| bug.name.as_str()).collect();
    assert_eq!(listed, names, "run scripts/planted.sh --write");
}
