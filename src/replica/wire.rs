//! The datagrams: one JSON object each, with `src`, `dst`, `leader` and `type`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::codec;
use crate::raft::Message;

/// Everybody; and, as a leader, nobody that is known.
pub const BROADCAST: &str = "FFFF";
/// Longest datagram, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packet {
    /// The sender's address.
    pub src: String,
    /// The receiver's address, or [`BROADCAST`].
    pub dst: String,
    /// Who leads, as far as the sender knows, or [`BROADCAST`].
    pub leader: String,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
}

/// What a datagram says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Body {
    /// A replica is there. Teaches the simulator its port.
    Hello,
    /// A client reads.
    Get {
        /// Names the request; the answer repeats it.
        #[serde(rename = "MID")]
        mid: Value,
        /// What it wants to read.
        key: Value,
    },
    /// A client writes.
    Put {
        /// Names the request; the answer repeats it.
        #[serde(rename = "MID")]
        mid: Value,
        /// What it wants to write to.
        key: Value,
        /// What it wants to write.
        value: Value,
    },
    /// The request was done.
    Ok {
        /// Of the request.
        #[serde(rename = "MID")]
        mid: Value,
        /// What a get found: `""` if nothing. Absent in the answer to a put.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Value>,
    },
    /// The request was not done and never will be.
    Fail {
        /// Of the request.
        #[serde(rename = "MID")]
        mid: Value,
    },
    /// The request was not done and never will be; the client is to ask the leader.
    Redirect {
        /// Of the request.
        #[serde(rename = "MID")]
        mid: Value,
    },
    /// Consensus: a [`Message`] in the encoding of peers, in Base64.
    Raft {
        /// See [`pack`].
        data: String,
    },
    /// "Do you lead?"
    Ping,
    /// The answer to [`Body::Ping`].
    Pong {
        /// Whether the answerer leads and hears a majority.
        leads: bool,
    },
}

impl Packet {
    /// Reads a datagram; `None` if it is none that this replica knows.
    pub fn parse(datagram: &[u8]) -> Option<Packet> {
        serde_json::from_slice(datagram).ok()
    }

    /// The datagram.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a packet is plain data")
    }
}

/// A consensus message as text.
pub fn pack(message: &Message) -> String {
    STANDARD_NO_PAD.encode(codec::encode(message))
}

/// What [`pack`] gave; `None` if it is something else.
pub fn unpack(data: &str) -> Option<Message> {
    codec::decode(&STANDARD_NO_PAD.decode(data).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;
    use serde_json::json;

    #[test]
    fn datagrams_have_the_keys_of_the_protocol() {
        let packet = |body| Packet { src: "0001".into(), dst: "0015".into(), leader: "0000".into(), body };
        let text = |body| serde_json::from_slice::<Value>(&packet(body).to_bytes()).expect("JSON");
        let head = json!({"src": "0001", "dst": "0015", "leader": "0000"});
        let with = |more: Value| {
            let mut all = head.as_object().expect("an object").clone();
            all.extend(more.as_object().expect("an object").clone());
            Value::Object(all)
        };
        let mid = json!("A1");
        assert_eq!(text(Body::Hello), with(json!({"type": "hello"})));
        assert_eq!(
            text(Body::Ok { mid: mid.clone(), value: Some(json!("")) }),
            with(json!({"type": "ok", "MID": "A1", "value": ""}))
        );
        assert_eq!(
            text(Body::Ok { mid: mid.clone(), value: None }),
            with(json!({"type": "ok", "MID": "A1"}))
        );
        assert_eq!(text(Body::Fail { mid: mid.clone() }), with(json!({"type": "fail", "MID": "A1"})));
        assert_eq!(text(Body::Redirect { mid: mid.clone() }), with(json!({"type": "redirect", "MID": "A1"})));
        let put = br#"{"src":"0015","dst":"0001","leader":"FFFF","type":"put","MID":"A1","key":"k","value":"v","x":1}"#;
        let body = Body::Put { mid, key: json!("k"), value: json!("v") };
        assert_eq!(Packet::parse(put).map(|packet| packet.body), Some(body));
    }

    #[test]
    fn what_is_no_datagram_of_the_protocol_is_nothing() {
        for text in ["", "{}", "[]", "\u{0}", r#"{"src":"0000","dst":"0001","leader":"0000","type":"get"}"#] {
            assert_eq!(Packet::parse(text.as_bytes()), None, "{text}");
        }
        let message = Message { term: Term(3), body: crate::raft::Body::NewerTerm };
        assert_eq!(unpack(&pack(&message)), Some(message));
        assert_eq!(unpack("no message"), None);
    }
}
