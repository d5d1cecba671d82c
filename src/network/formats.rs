//! The bytes of connections, as kept in `tests/formats/`: what an earlier version says is understood. See
//! `scripts/formats.sh`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::ledger::command::{Command, Request};
use crate::node::frame::{Frame, Hello};
use crate::raft::{Body, Entry, Message, Payload, Position};
use crate::types::{Index, NodeId, Term, Version};

use super::native;
use super::wire::{self, Greeting};

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn hello(protocol: u16) -> Hello {
    Hello {
        protocol,
        cluster: "blue".to_string(),
        from: id("n1"),
        to: id("n2"),
        version: Version { major: 0, minor: 1, patch: 0 },
        url: "http://127.0.0.1:7400".to_string(),
        incarnation: "0123456789abcdef0123456789abcdef".to_string(),
        address: "127.0.0.1:7401".to_string(),
        identity: Some("fedcba9876543210fedcba9876543210".to_string()),
    }
}

fn frames() -> Vec<(&'static str, Frame)> {
    let put = Command::KvPut { key: "a".to_string(), value: "1".to_string(), if_revision: Some(4) };
    let entry = Entry { term: Term(8), index: Index(12), payload: Payload::Command(vec![1, 2, 3].into()) };
    let previous = Position { index: Index(11), term: Term(8) };
    let append = Body::AppendRequest { previous, entries: vec![entry], commit: Index(10), round: 4 };
    vec![
        ("frame.ping", Frame::Ping { seq: 7 }),
        ("frame.raft", Frame::Raft(Message { term: Term(9), body: append })),
        ("frame.forward", Frame::Forward { life: 1, id: 2, request: Request::keyed("key", put) }),
        ("frame.read_index", Frame::ReadIndex { id: 3 }),
        ("frame.snapshot_ack", Frame::SnapshotAck { transfer: 4, next: 5 }),
        ("frame.not_member", Frame::NotMember { as_of: Index(6) }),
        ("frame.followed", Frame::Followed { id: 2, trace: u128::MAX - 7, parent: 8 }),
    ]
}

fn greetings() -> Vec<(&'static str, Greeting)> {
    vec![
        ("greeting.hello", Greeting::Hello(hello(2))),
        ("greeting.offer", Greeting::Offer { oldest: 2, hello: hello(3) }),
        (
            "greeting.bound",
            Greeting::Bound { as_of: Index(9), incarnations: [(id("n1"), "disk".to_string())].into() },
        ),
        ("greeting.refused", Greeting::Refused { reason: "no".to_string() }),
    ]
}

fn native_request() -> native::Request {
    let operation =
        native::Operation::Put { key: "a".to_string(), value: "1".to_string(), if_revision: None };
    native::Request { id: 1, patience_ms: 2, forward: true, idempotency_key: None, operation }
}

fn native_response() -> native::Response {
    let done = native::Done::Written { revision: 3, index: Index(4), term: Term(5) };
    native::Response { id: 1, result: Ok(done) }
}

fn native_hello() -> native::Hello {
    native::Hello { protocol: 1, cluster: "blue".to_string(), software: "test".to_string() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A whole frame: length, checksum, body.
fn sealed<T: Serialize>(value: &T) -> String {
    let mut out = BytesMut::new();
    wire::seal(&codec::encode(value), &mut out);
    hex(&out)
}

fn lines() -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    rows.extend(greetings().iter().map(|(name, greeting)| (*name, sealed(greeting))));
    rows.extend(frames().iter().map(|(name, frame)| (*name, sealed(frame))));
    rows.push(("native.hello", sealed(&native_hello())));
    rows.push(("native.request", sealed(&native_request())));
    rows.push(("native.response", sealed(&native_response())));
    rows.into_iter().map(|(name, bytes)| format!("{name} {bytes}\n")).collect()
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> T {
    codec::decode(wire::unseal(&bytes[4..]).expect("its checksum fits")).expect("it is understood")
}

/// Whether every line of a kept file is understood as what was said.
fn check(text: &str) {
    let mut understood = 0;
    for line in text.lines() {
        let (name, bytes) = line.split_once(' ').expect("a name and bytes");
        let bytes = unhex(bytes);
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert_eq!(length, bytes.len() - 4, "{name}");
        if let Some((_, frame)) = frames().into_iter().find(|(known, _)| *known == name) {
            assert_eq!(read::<Frame>(&bytes), frame, "{name}");
        } else if let Some((_, greeting)) = greetings().into_iter().find(|(known, _)| *known == name) {
            assert_eq!(read::<Greeting>(&bytes), greeting, "{name}");
        } else {
            match name {
                "native.hello" => assert_eq!(read::<native::Hello>(&bytes), native_hello()),
                "native.request" => assert_eq!(read::<native::Request>(&bytes), native_request()),
                "native.response" => assert_eq!(read::<native::Response>(&bytes), native_response()),
                other => panic!("{other}: not a line of this format"),
            }
        }
        understood += 1;
    }
    assert!(understood > 0);
}

#[test]
fn every_released_frame_is_understood() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    let files: Vec<PathBuf> =
        fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path().join("frames.txt")).collect();
    assert!(!files.is_empty());
    files.iter().for_each(|file| check(&fs::read_to_string(file).unwrap()));
}

/// With `SUPER_NODE_FORMATS_DIR` what is said is kept there.
#[test]
fn what_this_version_says_is_understood() {
    if let Some(into) = std::env::var_os("SUPER_NODE_FORMATS_DIR") {
        fs::write(Path::new(&into).join("frames.txt"), lines()).unwrap();
    }
    check(&lines());
}
