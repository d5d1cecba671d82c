//! A data directory belongs to one node of one cluster and to one process at a time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super_node::node::ports::{LogStore as _, StateStore as _, StorageError};
use super_node::storage::DataDirectory;
use super_node::types::NodeId;

use super::model::{entries, vote};

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn refusal(result: Result<DataDirectory, StorageError>) -> String {
    match result {
        Err(StorageError::Refused(text)) => text,
        Err(error) => panic!("not a refusal: {error}"),
        Ok(_) => panic!("not refused"),
    }
}

fn damage(result: Result<DataDirectory, StorageError>) -> String {
    match result {
        Err(error @ StorageError::Damaged { .. }) => error.to_string(),
        Err(error) => panic!("not damage: {error}"),
        Ok(_) => panic!("nothing noticed"),
    }
}

#[test]
fn it_is_made_private_and_comes_back_the_same() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/data");
    let mut directory = DataDirectory::open(&path, &node("n1"), "blue").unwrap();
    assert!(directory.is_new());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let identity = directory.identity().clone();
    assert_eq!(identity.incarnation.len(), 32);
    let opened = directory.open_log().unwrap();
    let mut log = opened.log;
    log.append(&[vote(4, "n1"), entries(1..=3, 4, 10)]).unwrap();
    let state = directory.open_state().unwrap();
    state.update(&mut |rows| rows.put(b"k", b"v")).unwrap();
    state.flush().unwrap();
    drop((log, state, directory));

    let mut again = DataDirectory::open(&path, &node("n1"), "blue").unwrap();
    assert!(!again.is_new());
    assert_eq!(again.identity().incarnation, identity.incarnation);
    assert_eq!(again.open_log().unwrap().recovered.entries.len(), 3);
    assert_eq!(again.open_state().unwrap().view().unwrap().get(b"k").unwrap(), Some(b"v".to_vec()));
}

#[test]
fn two_directories_have_two_incarnations() {
    let parent = tempfile::tempdir().unwrap();
    let one = DataDirectory::open(&parent.path().join("1"), &node("n1"), "blue").unwrap();
    let two = DataDirectory::open(&parent.path().join("2"), &node("n1"), "blue").unwrap();
    assert_ne!(one.identity().incarnation, two.identity().incarnation);
    assert_ne!(one.salt(), two.salt());
}

#[test]
fn a_second_process_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let first = DataDirectory::open(parent.path(), &node("n1"), "blue").unwrap();
    for second in
        [DataDirectory::open(parent.path(), &node("n1"), "blue"), DataDirectory::open_existing(parent.path())]
    {
        let text = refusal(second);
        assert!(text.contains("in use") && text.contains("--data-dir"), "{text}");
    }
    drop(first);
    DataDirectory::open_existing(parent.path()).unwrap();
}

#[test]
fn another_node_or_cluster_is_refused_by_name() {
    let parent = tempfile::tempdir().unwrap();
    drop(DataDirectory::open(parent.path(), &node("n1"), "blue").unwrap());
    for (name, cluster) in [("n2", "blue"), ("n1", "red")] {
        let text = refusal(DataDirectory::open(parent.path(), &node(name), cluster));
        let path = parent.path().display().to_string();
        for part in ["'n1'", "'blue'", name, cluster, &path, "use another --data-dir or remove it"] {
            assert!(text.contains(part), "'{part}' is not in: {text}");
        }
    }
}

#[test]
fn a_missing_or_changed_identity_is_damage_if_there_is_data() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("identity.json");
    let mut directory = DataDirectory::open(parent.path(), &node("n1"), "blue").unwrap();
    directory.open_log().unwrap();
    drop(directory);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"log_made\": true", "\"log_made\": false")).unwrap();
    let message = damage(DataDirectory::open(parent.path(), &node("n1"), "blue"));
    assert!(message.contains("checksum"), "{message}");
    fs::write(&file, "{").unwrap();
    damage(DataDirectory::open(parent.path(), &node("n1"), "blue"));
    fs::remove_file(&file).unwrap();
    let message = damage(DataDirectory::open(parent.path(), &node("n1"), "blue"));
    assert!(message.contains("identity.json") && message.contains("missing"), "{message}");
}

#[test]
fn no_changed_byte_of_the_identity_makes_another_one() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("identity.json");
    let identity = DataDirectory::open(parent.path(), &node("n1"), "blue").unwrap().identity().clone();
    let bytes = fs::read(&file).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x01;
        fs::write(&file, &changed).unwrap();
        match DataDirectory::open(parent.path(), &node("n1"), "blue") {
            Ok(directory) => assert_eq!(*directory.identity(), identity, "byte {at}"),
            Err(StorageError::Damaged { .. } | StorageError::Refused(_)) => {}
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
}

#[test]
fn a_newer_directory_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    fs::write(parent.path().join("identity.json"), r#"{"format": 2, "else": "unknown"}"#).unwrap();
    let text = refusal(DataDirectory::open(parent.path(), &node("n1"), "blue"));
    assert!(text.contains("upgrade"), "{text}");
}

#[test]
fn a_log_or_state_that_was_there_is_missed() {
    let parent = tempfile::tempdir().unwrap();
    let mut directory = DataDirectory::open(parent.path(), &node("n1"), "blue").unwrap();
    directory.open_log().unwrap();
    drop(directory.open_state().unwrap());
    for file in fs::read_dir(parent.path().join("log")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(matches!(directory.open_log(), Err(StorageError::Damaged { .. })));
    fs::remove_dir(parent.path().join("log")).unwrap();
    assert!(matches!(directory.open_log(), Err(StorageError::Damaged { .. })));
    fs::remove_file(parent.path().join("state.redb")).unwrap();
    assert!(matches!(directory.open_state(), Err(StorageError::Damaged { .. })));
}

#[test]
fn a_log_of_another_directory_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let (one, two) = (parent.path().join("1"), parent.path().join("2"));
    for path in [&one, &two] {
        DataDirectory::open(path, &node("n1"), "blue").unwrap().open_log().unwrap();
    }
    let name = "log/000000000001.log";
    fs::copy(one.join(name), two.join(name)).unwrap();
    let error = DataDirectory::open(&two, &node("n1"), "blue").unwrap().open_log().err().expect("refused");
    assert!(
        matches!(&error, StorageError::Refused(text) if text.contains("another data directory")),
        "{error}"
    );
}

#[test]
fn what_is_no_data_directory_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let text = refusal(DataDirectory::open_existing(parent.path()));
    assert!(text.contains("not a data directory"), "{text}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "nothing is left behind");
    let file = parent.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(refusal(DataDirectory::open(&file, &node("n1"), "blue")).contains("not a directory"));
}
