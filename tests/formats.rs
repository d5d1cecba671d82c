//! What earlier versions wrote stays readable: `tests/formats/N/` holds a small data directory and a snapshot as format N
//! of them was written. (The bytes of peer and client connections are held by `src/network/formats.rs`.)
//!
//! `scripts/formats.sh` writes the files of the present formats anew, for a new number. Those of a released number are
//! never written again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super_node::codec;
use super_node::ledger::command::{Command, Envelope, Request};
use super_node::ledger::policy::Policy;
use super_node::ledger::query;
use super_node::ledger::verify::verify;
use super_node::node::applier::{Applier, standing};
use super_node::node::ports::{LogStore as _, StateStore, StorageError};
use super_node::raft::{Base, Configuration, Entry, HardState, Payload, Persist};
use super_node::storage::recover::{examine, restore};
use super_node::storage::snapshot::{Head, SnapshotWriter};
use super_node::storage::{DataDirectory, inspect};
use super_node::types::{Index, NodeId, Term, UnixMillis};

const IDENTITY: &str = "0123456789abcdef0123456789abcdef";

fn node(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

fn voters() -> BTreeMap<NodeId, String> {
    (1..=3).map(|number| (node(&format!("n{number}")), format!("127.0.0.1:740{number}"))).collect()
}

fn configuration() -> Configuration {
    let addresses = voters();
    Configuration { voters: addresses.keys().cloned().collect(), addresses, ..Configuration::default() }
}

/// The log of the kept directory: a no-op, a configuration, the founding, a few writes.
fn entries() -> Vec<Entry> {
    let nodes = voters().into_iter().collect();
    let put = |key: &str, value: &str| Command::KvPut {
        key: key.to_string(),
        value: value.to_string(),
        if_revision: None,
    };
    let commands = vec![
        Command::Genesis {
            cluster: "blue".to_string(),
            identity: IDENTITY.to_string(),
            policy: Policy::default(),
            nodes,
        },
        put("greeting", "\"hello\""),
        put("gone", "1"),
        Command::KvDelete { key: "gone".to_string(), if_revision: None },
        Command::Add { a: 5, b: 3 },
        put("list", "[1,2,{\"x\":null}]"),
    ];
    let command = |(number, command): (i64, Command)| {
        let envelope = Envelope {
            at: UnixMillis(1_700_000_000_000 + number),
            term: Term(3),
            leader: node("n2"),
            request: Request::new(command),
        };
        Payload::Command(codec::encode(&envelope).into())
    };
    let payloads = [Payload::Noop, Payload::Configuration(configuration())].into_iter();
    let payloads = payloads.chain((0..).zip(commands).map(command));
    payloads
        .zip(1..)
        .map(|(payload, index)| Entry {
            term: Term(if index < 3 { 2 } else { 3 }),
            index: Index(index),
            payload,
        })
        .collect()
}

/// Writes the directory and the snapshot in the formats of this version.
fn write(into: &Path) -> Result<(), StorageError> {
    let mut directory = DataDirectory::open(&into.join("data"), &node("n1"), "blue")?;
    let mut log = directory.open_log()?.log;
    let state = Arc::new(directory.open_state()?);
    let hard_state = HardState { term: Term(4), vote: Some(node("n3")) };
    let (entries, base) = (entries(), Base { index: Index(1), term: Term(2) });
    let batch = |seq, hard_state, base, entries| Persist { seq, hard_state, base, entries };
    log.append(&[batch(1, Some(hard_state), None, entries.clone())])?;
    log.append(&[batch(2, None, Some(base), Vec::new())])?;
    let store: Arc<dyn StateStore> = Arc::clone(&state) as Arc<dyn StateStore>;
    let mut applier = Applier::new(store).expect("a new state");
    // The last entry is in the log only.
    applier.apply(&entries[..entries.len() - 1]).expect("it is applied");
    applier.flush().expect("it is flushed");
    drop(applier);
    let view = state.view().expect("a view");
    let head = Head::of(&*view, "blue", &node("n1")).expect("a head");
    let mut writer = SnapshotWriter::new(view, head);
    let mut bytes = Vec::new();
    while let Some(piece) = writer.next_piece().expect("it can be read") {
        bytes.extend(piece);
    }
    fs::write(into.join("cluster.snapshot"), bytes).expect("it can be written");
    Ok(())
}

/// Copies a directory: opening one changes it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Whether everything in `at` reads as it was written.
fn check(at: &Path) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    copy(&at.join("data"), &data);
    let directory = DataDirectory::open_existing(&data).expect("its identity is read");
    assert_eq!((directory.identity().node.as_str(), directory.identity().cluster.as_str()), ("n1", "blue"));
    let found = inspect(&directory.log_disk().expect("a disk"), directory.salt());
    assert_eq!(found.expect("it is read").expect("a log").notes, Vec::<String>::new());
    drop(directory);
    let mut directory = DataDirectory::open(&data, &node("n1"), "blue").expect("it is opened");
    let recovered = directory.open_log().expect("the log is opened").recovered;
    assert_eq!(recovered.hard_state, HardState { term: Term(4), vote: Some(node("n3")) });
    assert_eq!(recovered.base, Base { index: Index(1), term: Term(2) });
    assert_eq!(recovered.entries, entries()[1..]);
    let state = Arc::new(directory.open_state().expect("the state is opened"));
    let store: Arc<dyn StateStore> = Arc::clone(&state) as Arc<dyn StateStore>;
    let applier = &mut Applier::new(store).expect("its standing is read");
    assert_eq!(applier.standing().applied, Base { index: Index(7), term: Term(3) });
    assert_eq!(applier.standing().configuration, Some(configuration()));
    // What it had not applied, it applies now.
    applier.apply(&recovered.entries).expect("it goes on");
    let view = state.view().expect("a view");
    let value = |key: &str| query::kv_get(&*view, key).expect("readable").map(|entry| entry.value);
    assert_eq!(value("greeting").as_deref(), Some("\"hello\""));
    assert_eq!((value("gone"), value("list").as_deref()), (None, Some("[1,2,{\"x\":null}]")));
    assert_eq!(
        query::genesis(&*view).expect("readable").map(|genesis| genesis.identity),
        Some(IDENTITY.to_string())
    );
    assert_eq!(query::member_count(&*view), Ok(3));
    assert!(verify(&*view, &mut |_, _| {}).ok);

    let file = at.join("cluster.snapshot");
    let examined = examine(&file, &mut |_, _| {}).expect("every checksum fits");
    assert_eq!((examined.head.index, examined.head.term), (Index(7), Term(3)));
    assert_eq!(examined.head.configuration, configuration());
    let restored = scratch.path().join("restored");
    restore(&file, &restored, &node("n2"), &voters(), &mut |_, _| {}).expect("it is restored");
    let mut directory = DataDirectory::open(&restored, &node("n2"), "blue").expect("it is opened");
    let recovered = directory.open_log().expect("its log is opened").recovered;
    let covered = Base { index: examined.head.index, term: examined.head.term };
    assert_eq!((recovered.base, recovered.entries.len()), (covered, 0));
    let state = directory.open_state().expect("its state is opened");
    let view = state.view().expect("a view");
    assert_eq!(standing(&*view).expect("readable").applied, recovered.base);
    let greeting = query::kv_get(&*view, "greeting").expect("readable").expect("restored");
    assert_eq!(greeting.value, "\"hello\"");
}

#[test]
fn every_released_format_is_read() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    let mut numbers: Vec<PathBuf> =
        fs::read_dir(&kept).expect("kept formats").map(|entry| entry.expect("readable").path()).collect();
    numbers.sort();
    assert!(!numbers.is_empty());
    numbers.iter().for_each(|path| check(path));
}

/// With `SUPER_NODE_FORMATS_DIR` what is written is kept there: see `scripts/formats.sh`.
#[test]
fn what_this_version_writes_is_read_like_what_is_kept() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let wanted = std::env::var_os("SUPER_NODE_FORMATS_DIR").map(PathBuf::from);
    let into = wanted.unwrap_or_else(|| scratch.path().to_path_buf());
    write(&into).expect("it is written");
    check(&into);
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    write(scratch.path()).expect("it is written");
    let data = scratch.path().join("data");
    // The state: redb's own file, in which a later version has said so.
    {
        let about = redb::TableDefinition::<&str, u64>::new("about");
        let database = redb::Database::open(data.join("state.redb")).expect("it is opened");
        let transaction = database.begin_write().expect("it is written to");
        transaction.open_table(about).expect("a table").insert("format", 3).expect("a row");
        transaction.commit().expect("it is committed");
    }
    let mut directory = DataDirectory::open_existing(&data).expect("its identity is read");
    let refused = directory.open_state().map(|_| ()).expect_err("it is newer");
    assert!(matches!(&refused, StorageError::Refused(_)), "{refused}");
    assert!(
        refused.to_string().contains("state format 3") && refused.to_string().contains("upgrade"),
        "{refused}"
    );
    drop(directory);
    let identity = data.join("identity.json");
    let text = fs::read_to_string(&identity).expect("it is there");
    fs::write(&identity, text.replacen("\"format\": 1", "\"format\": 2", 1)).expect("it is written");
    let refused = DataDirectory::open_existing(&data).map(|_| ()).expect_err("it is newer");
    assert!(refused.to_string().contains("directory format 2"), "{refused}");
}
