//! Who is let in, with which key, and who waits.

use super::*;
use crate::ledger::agents::{self, WAITING_PER_HOST_MAX, fingerprint};
use crate::types::AgentKey;

const A: AgentKey = AgentKey([1; 32]);
const B: AgentKey = AgentKey([2; 32]);

impl World {
    /// `in`, `waits`, or the kind of refusal.
    fn enrol(&mut self, name: &str, address: &str, key: AgentKey, approved: bool) -> String {
        let command =
            Command::AgentEnrol { member: member(name), address: address.to_string(), key, approved };
        self.said(command)
    }

    fn said(&mut self, command: Command) -> String {
        match self.run(command) {
            Answer::Enrolled { waiting } => if waiting { "waits" } else { "in" }.to_string(),
            Answer::Done => "done".to_string(),
            other => rejection(&other).to_string(),
        }
    }

    fn approve(&mut self, name: &str, fingerprint: Option<String>) -> String {
        self.said(Command::AgentApprove { member: member(name), fingerprint })
    }

    fn key(&self, name: &str) -> Option<AgentKey> {
        agents::key_in_force(&self.space, &member(name)).expect("readable")
    }
}

#[test]
fn an_agent_comes_in_when_somebody_says_so_and_waits_otherwise() {
    let mut world = World::with(&["n1"], &["expected"], Policy::default());
    for (name, address, key, approved, answer, in_force) in [
        ("open", "h:1", A, true, "in", Some(A)),
        // Idempotent; it moves with its key; approved, it takes another.
        ("open", "h:1", A, false, "in", Some(A)),
        ("open", "h:2", A, false, "in", Some(A)),
        ("open", "h:2", B, true, "in", Some(B)),
        // Another key under its name takes nothing from it.
        ("open", "h:2", A, false, "waits", Some(B)),
        // Added by an operator: the first to come from that address, and nobody after it.
        ("expected", "elsewhere:1", A, false, "waits", None),
        ("expected", "host:1", B, false, "in", Some(B)),
        ("expected", "host:1", A, false, "waits", Some(B)),
        ("n1", "h:1", A, true, "conflict", None),
        ("n1", "h:1", A, false, "conflict", None),
        ("open", "no port at all here", A, false, "bad request", Some(B)),
    ] {
        let row = format!("{name} {address} {approved}");
        assert_eq!(world.enrol(name, address, key, approved), answer, "{row}");
        assert_eq!(world.key(name), in_force, "{row}");
        if name == "expected" && in_force == Some(B) && answer == "in" {
            // Who waited under that name waits no more.
            assert!(
                agents::waiting(&world.space).unwrap().iter().all(|agent| agent.member != member("expected"))
            );
        }
    }
    assert_eq!(world.member("open").address, "h:2");
}

#[test]
fn who_waits_is_no_member_until_it_is_approved_and_the_fingerprint_must_fit() {
    let mut world = World::with(&["n1"], &[], Policy::default());
    assert_eq!(world.enrol("w", "h:1", A, false), "waits");
    assert_eq!(world.enrol("w", "h:2", A, false), "waits", "it may move while it waits");
    assert_eq!(world.enrol("w", "h:1", B, false), "conflict", "nobody takes its place in the queue");
    assert_eq!(query::member(&world.space, &member("w")), Ok(None));
    assert_eq!(world.approve("nobody", None), "not found");
    assert_eq!(world.approve("w", Some(fingerprint(&B))), "conflict");
    assert_eq!(world.approve("w", Some(fingerprint(&A))), "in");
    assert_eq!((world.member("w").address.as_str(), world.key("w")), ("h:2", Some(A)));
    assert_eq!(world.approve("w", None), "not found", "it waits no more");
    // One that was removed is not let in again by having been here before.
    assert_eq!(world.leave("w"), Answer::Done);
    assert_eq!((world.key("w"), world.enrol("w", "h:2", A, false)), (None, "waits".to_string()));
    assert_eq!(world.said(Command::AgentRefuse { member: member("w") }), "done");
    assert_eq!(world.said(Command::AgentRefuse { member: member("w") }), "not found");
}

#[test]
fn two_of_one_host_may_wait() {
    let mut world = World::with(&["n1"], &[], Policy::default());
    for number in 0..WAITING_PER_HOST_MAX {
        assert_eq!(world.enrol(&format!("w{number}"), &format!("h:{number}"), A, false), "waits");
    }
    assert_eq!(world.enrol("more", "h:99", A, false), "conflict");
    assert_eq!(world.enrol("more", "other:99", A, false), "waits");
    assert_eq!(
        world.enrol("w0", "h:50", A, false),
        "waits",
        "whoever waits already is not counted against itself"
    );
    assert_eq!(world.enrol("trusted", "h:98", A, true), "in", "who is let in needs no room");
    assert_eq!(world.approve("w0", None), "in");
    assert_eq!(world.enrol("more2", "h:97", A, false), "waits");
}
