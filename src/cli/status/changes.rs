//! What is different between two looks at a cluster. Pure.

use serde_json::Value;

use crate::node::status::NodeStatus;

/// A status without what differs from look to look by itself: how long ago others were heard.
pub(super) fn lasting(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(nodes) = status.get_mut("nodes").and_then(Value::as_array_mut) {
        for node in nodes.iter_mut().filter_map(Value::as_object_mut) {
            node.remove("contact_ms");
        }
    }
    status
}

/// What people want to be told of, in words.
pub(super) fn told(before: &NodeStatus, after: &NodeStatus) -> Vec<String> {
    let mut told = Vec::new();
    match (&before.leader, &after.leader) {
        (Some(old), None) => told.push(format!("{old} leads no more, nobody does")),
        (None, Some(new)) => told.push(format!("{new} leads in term {}", after.term)),
        (Some(old), Some(new)) if old != new => {
            told.push(format!("{new} leads in term {}, before it {old}", after.term));
        }
        (Some(same), Some(_)) if before.term != after.term => {
            told.push(format!("{same} leads again, in term {}", after.term));
        }
        _ => {}
    }
    for node in &after.nodes {
        match before.nodes.iter().find(|known| known.id == node.id) {
            None => told.push(format!("{} is new", node.id)),
            Some(known) if known.up && !node.up => told.push(format!("{} is down", node.id)),
            Some(known) if !known.up && node.up => told.push(format!("{} is up", node.id)),
            Some(_) => {}
        }
    }
    let gone = |id| !after.nodes.iter().any(|node| node.id == id);
    let left = before.nodes.iter().filter(|known| gone(known.id.clone()));
    told.extend(left.map(|known| format!("{} has left", known.id)));
    let (was, is) = (before.members.down, after.members.down);
    if was != is {
        told.push(format!("{is} of {} members are down, {was} before", after.members.total));
    }
    match (&before.projection.error, &after.projection.error) {
        (None, Some(error)) => told.push(format!("the projection stands still: {error}")),
        (Some(_), None) => told.push("the projection goes on".to_string()),
        _ => {}
    }
    told
}

/// A healthy cluster of two nodes.
#[cfg(test)]
pub(super) fn healthy() -> NodeStatus {
    use serde_json::json;

    let node = |id: &str, role: &str| {
        json!({ "id": id, "address": "127.0.0.1:7401", "role": role, "match": 7, "lag": 0, "contact_ms": 12,
            "up": true, "url": null })
    };
    let status = json!({
        "cluster": "blue", "id": "n1", "role": "leader", "term": 3, "leader": "n1", "commit": 7, "applied": 7,
        "voters": ["n1", "n2"], "nodes": [node("n1", "leader"), node("n2", "follower")],
        "members": { "total": 3, "up": 3, "suspect": 0, "down": 0, "suspended": 0 },
        "interval": { "open": 5, "next_settle": 4 },
        "ledger": { "records": 12, "head_hash": "0123456789abcdef" },
        "projection": { "enabled": false, "checkpoint": 0, "lag_records": 0, "error": null },
        "version": "1.2.3", "url": "http://127.0.0.1:7400",
    });
    serde_json::from_value(status).expect("a status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_a_node_was_heard_is_no_change() {
        let mut later = healthy();
        later.nodes[1].contact_ms = Some(40);
        let value = |status: &NodeStatus| serde_json::to_value(status).expect("plain data");
        assert_eq!(lasting(&value(&healthy())), lasting(&value(&later)));
        later.nodes[1].lag = Some(1);
        assert_ne!(lasting(&value(&healthy())), lasting(&value(&later)));
    }

    #[test]
    fn people_are_told_what_matters() {
        type Change = fn(&mut NodeStatus);
        let cases: [(Change, &[&str]); 8] = [
            (|_| {}, &[]),
            (|s| s.commit.0 += 1, &[]),
            (|s| s.leader = None, &["n1 leads no more, nobody does"]),
            (
                |s| (s.leader, s.term) = (Some("n2".parse().expect("a name")), s.term.next()),
                &["n2 leads in term 4, before it n1"],
            ),
            (|s| s.term = s.term.next(), &["n1 leads again, in term 4"]),
            (
                |s| {
                    s.nodes[1].up = false;
                    s.members.down = 1;
                },
                &["n2 is down", "1 of 3 members are down, 0 before"],
            ),
            (|s| drop(s.nodes.pop()), &["n2 has left"]),
            (|s| s.projection.error = Some("away".to_string()), &["the projection stands still: away"]),
        ];
        for (change, words) in cases {
            let mut after = healthy();
            change(&mut after);
            assert_eq!(told(&healthy(), &after), words);
        }
    }
}
