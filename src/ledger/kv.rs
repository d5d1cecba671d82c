//! The shared dictionary: put, delete, batch, with revisions; and the replicated addition.
//!
//! The dictionary has one revision, which every successful write increases by one; a key remembers the revision of its
//! last write. A batch is one write.

use serde::Serialize;

use crate::codec::check_json;

use super::apply::{Happening, Step};
use super::command::{Answer, KV_BATCH_MAX, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX, KvOperation, Rejection};
use super::keys;
use super::keyspace::{Keyspace, KeyspaceError};
use super::records::KvEntry;
use super::table;

/// Most bytes of keys and values in one batch.
pub const KV_BATCH_BYTES_MAX: usize = 8 << 20;

fn check_key(key: &str) -> Result<(), Rejection> {
    if key.is_empty() || key.len() > KV_KEY_BYTES_MAX {
        let length = key.len();
        return Err(Rejection::BadRequest(format!("a key has 1 to {KV_KEY_BYTES_MAX} bytes, not {length}")));
    }
    Ok(())
}

/// A value must be JSON that a reader of values can read: within the bound, numbers in range, not nested too deep.
fn check_value(value: &str) -> Result<(), Rejection> {
    if value.len() > KV_VALUE_BYTES_MAX {
        let length = value.len();
        return Err(Rejection::BadRequest(format!(
            "a value has up to {KV_VALUE_BYTES_MAX} bytes, not {length}"
        )));
    }
    match check_json(value.as_bytes()) {
        Ok(()) => Ok(()),
        Err(error) => Err(Rejection::BadRequest(format!("the value is not JSON: {error}"))),
    }
}

/// Whether the key's revision is the one asked for; 0 stands for "absent".
fn check_revision(key: &str, found: Option<&KvEntry>, wanted: Option<u64>) -> Result<(), Rejection> {
    let Some(wanted) = wanted else { return Ok(()) };
    let revision = found.map_or(0, |entry| entry.revision);
    if revision == wanted {
        return Ok(());
    }
    let is = if revision == 0 { "is absent".to_string() } else { format!("has revision {revision}") };
    Err(Rejection::Conflict(format!("key '{key}' {is}, not {wanted}")))
}

/// Takes the next revision.
fn next_revision(space: &mut dyn Keyspace) -> Result<u64, KeyspaceError> {
    let revision: u64 = table::read_or_default::<u64>(&*space, keys::KV_REVISION)? + 1;
    table::write(space, keys::KV_REVISION, &revision)?;
    Ok(revision)
}

/// A [`KvEntry`] whose texts stand elsewhere. The fields are the same, in the same order.
#[derive(Serialize)]
struct Written<'w> {
    key: &'w str,
    value: &'w str,
    revision: u64,
}

fn set(
    space: &mut dyn Keyspace,
    key: &str,
    value: &str,
    revision: u64,
    happenings: &mut Vec<Happening>,
) -> Result<(), KeyspaceError> {
    table::write(space, &keys::kv(key), &Written { key, value, revision })?;
    happenings.push(Happening::KvChanged { key: key.to_string(), revision, deleted: false });
    Ok(())
}

fn remove(
    space: &mut dyn Keyspace,
    key: &str,
    revision: u64,
    happenings: &mut Vec<Happening>,
) -> Result<(), KeyspaceError> {
    space.delete(&keys::kv(key))?;
    happenings.push(Happening::KvChanged { key: key.to_string(), revision, deleted: true });
    Ok(())
}

/// [`super::command::Command::KvPut`].
pub(super) fn put(
    space: &mut dyn Keyspace,
    key: &str,
    value: &str,
    if_revision: Option<u64>,
    happenings: &mut Vec<Happening>,
) -> Step {
    check_key(key)?;
    check_value(value)?;
    if if_revision.is_some() {
        let found: Option<KvEntry> = table::read(&*space, &keys::kv(key))?;
        check_revision(key, found.as_ref(), if_revision)?;
    }
    let revision = next_revision(space)?;
    set(space, key, value, revision, happenings)?;
    Ok(Answer::Kv { revision })
}

/// [`super::command::Command::KvDelete`]. Without a precondition an absent key is "not found".
pub(super) fn delete(
    space: &mut dyn Keyspace,
    key: &str,
    if_revision: Option<u64>,
    happenings: &mut Vec<Happening>,
) -> Step {
    check_key(key)?;
    let found: Option<KvEntry> = table::read(&*space, &keys::kv(key))?;
    check_revision(key, found.as_ref(), if_revision)?;
    if found.is_none() {
        return Err(Rejection::NotFound(format!("key '{key}'")).into());
    }
    let revision = next_revision(space)?;
    remove(space, key, revision, happenings)?;
    Ok(Answer::Kv { revision })
}

/// [`super::command::Command::KvBatch`]: everything is checked before anything is written.
pub(super) fn batch(
    space: &mut dyn Keyspace,
    operations: &[KvOperation],
    happenings: &mut Vec<Happening>,
) -> Step {
    if operations.is_empty() || operations.len() > KV_BATCH_MAX {
        let count = operations.len();
        return Err(Rejection::BadRequest(format!(
            "a batch has 1 to {KV_BATCH_MAX} operations, not {count}"
        ))
        .into());
    }
    let mut bytes = 0;
    for operation in operations {
        match operation {
            KvOperation::Put { key, value } => {
                check_key(key)?;
                check_value(value)?;
                bytes += key.len() + value.len();
            }
            KvOperation::Delete { key } => {
                check_key(key)?;
                bytes += key.len();
            }
        }
    }
    if bytes > KV_BATCH_BYTES_MAX {
        return Err(Rejection::BadRequest(format!(
            "a batch has up to {KV_BATCH_BYTES_MAX} bytes, not {bytes}"
        ))
        .into());
    }
    let revision = next_revision(space)?;
    for operation in operations {
        match operation {
            KvOperation::Put { key, value } => set(space, key, value, revision, happenings)?,
            KvOperation::Delete { key } => {
                if space.get(&keys::kv(key))?.is_some() {
                    remove(space, key, revision, happenings)?;
                }
            }
        }
    }
    Ok(Answer::Kv { revision })
}

/// [`super::command::Command::Add`].
pub(super) fn add(a: i64, b: i64) -> Step {
    match a.checked_add(b) {
        Some(result) => Ok(Answer::Sum { result }),
        None => Err(Rejection::BadRequest(format!("{a} + {b} does not fit into 64 bits")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_checked_as_a_reader_of_values_would() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for text in [
            "1",
            "-0.5e3",
            "null",
            "true",
            "\"a\\u00e4\"",
            "[1,[2,{}],\"x\"]",
            "{\"a\":{\"b\":[null]}}",
            " 7 ",
            "",
            "1e999",
            "[1,]",
            "{\"a\"}",
            "{1:2}",
            "\"\\ud800\"",
            "tru",
            "1 2",
            "\u{7f}",
            "18446744073709551616",
            &deep,
        ] {
            let known = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(check_json(text.as_bytes()).is_ok(), known, "{text}");
        }
        assert!(check_json(b"\"\xff\"").is_err(), "not UTF-8");
    }

    #[test]
    fn an_entry_is_written_as_it_is_read() {
        let written = crate::codec::encode(&Written { key: "k", value: "[1]", revision: 7 });
        let entry = KvEntry { key: "k".to_string(), value: "[1]".to_string(), revision: 7 };
        assert_eq!(crate::codec::decode(&written), Ok(entry));
    }
}
