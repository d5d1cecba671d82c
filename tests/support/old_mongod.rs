//! A MongoDB of another time: as much of its wire protocol as a driver needs to learn how old it is.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use bson::{Document, doc};

/// The opcodes of the wire protocol.
const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2_004;
const OP_MSG: i32 = 2_013;

/// Serves for as long as the test runs; returns the connection string.
pub fn start(version: &'static str, wire_version: i32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, version, wire_version));
        }
    });
    format!("mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=3000")
}

/// Answers until the other side is gone.
fn serve(mut stream: TcpStream, version: &str, wire_version: i32) -> Option<()> {
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head).ok()?;
        let number = |at: usize| i32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let mut body = vec![0; usize::try_from(number(0)).ok()?.checked_sub(16)?];
        stream.read_exact(&mut body).ok()?;
        let (request, opcode) = (number(4), number(12));
        let document = match opcode {
            // Flags, the collection's name with its zero, what to skip, what to return.
            OP_QUERY => &body[4 + body[4..].iter().position(|byte| *byte == 0)? + 1 + 8..],
            // Flags and the kind of the first section.
            OP_MSG => &body[5..],
            _ => return None,
        };
        let command = Document::from_reader(document).ok()?;
        let name = command.keys().next()?.to_lowercase();
        let answer = match name.as_str() {
            "hello" | "ismaster" => doc! {
                "ok": 1, "ismaster": true, "isWritablePrimary": true, "minWireVersion": 0, "maxWireVersion": wire_version,
                "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
            },
            "buildinfo" => doc! { "ok": 1, "version": version },
            _ => doc! { "ok": 1, "cursor": { "id": 0_i64, "ns": "super_node.$cmd", "firstBatch": [] } },
        };
        let answer = answer.to_vec().ok()?;
        let (opcode, before) = if opcode == OP_QUERY {
            // Flags, a cursor, where it begins, one document.
            let mut before = vec![0; 20];
            before[16] = 1;
            (OP_REPLY, before)
        } else {
            (OP_MSG, vec![0; 5])
        };
        let length = i32::try_from(16 + before.len() + answer.len()).ok()?;
        let mut out = Vec::new();
        for number in [length, 0, request, opcode] {
            out.extend(number.to_le_bytes());
        }
        out.extend(before);
        out.extend(answer);
        stream.write_all(&out).ok()?;
    }
}
