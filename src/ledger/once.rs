//! Whether a request is executed, answered from memory, or refused: [`Once`] in force.

use crate::codec::Hash;
use crate::types::{Index, UnixMillis};

use super::apply::Stop;
use super::command::{Applied, Command, Once, Rejection, Request};
use super::idempotency::{self, Found, Remembered};
use super::keyspace::{Keyspace, KeyspaceError};
use super::limits::Limits;
use super::sessions;

/// What is to be done with a request.
pub(super) enum Admission<'a> {
    /// Execute it, and hand its answer to [`Slot::remember`].
    Execute(Slot<'a>),
    /// It was executed before; this was the answer.
    Repeat(Applied),
}

/// Where the answer of a request will be remembered.
pub(super) struct Slot<'a> {
    once: &'a Once,
    limits: Limits,
    /// Of the command; zero where nothing is remembered.
    command: Hash,
}

/// Looks a request up at log position `index` and log time `now`. A refusal changes nothing.
pub(super) fn admit<'a>(
    space: &mut dyn Keyspace,
    request: &'a Request,
    index: Index,
    now: UnixMillis,
    limits: Limits,
) -> Result<Admission<'a>, Stop> {
    let once = &request.once;
    let (command, found) = match once {
        Once::Unguarded => (Hash::ZERO, Found::Nothing),
        Once::Key(key) => {
            idempotency::check_key(key)?;
            let command = idempotency::digest(&request.command);
            (command, idempotency::find(&*space, key, command, now)?)
        }
        Once::Session(place) => {
            if is_about_sessions(&request.command) {
                let why = "a session is opened, kept and closed outside of any session";
                return Err(Rejection::BadRequest(why.to_string()).into());
            }
            let command = idempotency::digest(&request.command);
            (command, sessions::find(&*space, *place, command, now)?)
        }
    };
    match (found, once) {
        (Found::Nothing, _) => Ok(Admission::Execute(Slot { once, limits, command })),
        (Found::Answer(applied), Once::Session(place)) => {
            sessions::touch(space, *place, (index, now), limits)?;
            Ok(Admission::Repeat(applied))
        }
        (Found::Answer(applied), _) => Ok(Admission::Repeat(applied)),
        (Found::Forgotten, _) => {
            let why = "this idempotency key is older than the answers that are remembered. This try did nothing; whether \
                       an earlier one did is not known any more";
            Err(Rejection::KeyExpired(why.to_string()).into())
        }
        (Found::OtherCommand, _) => {
            let why = match once {
                Once::Session(place) => {
                    format!("sequence {} of session {} was another command", place.sequence, place.session)
                }
                Once::Key(key) => format!("idempotency key '{key}' was used for another command"),
                Once::Unguarded => "used for another command".to_string(),
            };
            Err(Rejection::Conflict(why).into())
        }
    }
}

fn is_about_sessions(command: &Command) -> bool {
    matches!(command, Command::SessionOpen | Command::SessionKeepAlive { .. } | Command::SessionClose { .. })
}

impl Slot<'_> {
    /// Remembers the answer of log time `now` as far as the request asked for it.
    pub fn remember(
        &self,
        space: &mut dyn Keyspace,
        applied: &Applied,
        now: UnixMillis,
    ) -> Result<(), KeyspaceError> {
        let answer = || Remembered { command: self.command, applied: applied.clone(), at: now };
        match self.once {
            Once::Unguarded => Ok(()),
            Once::Key(key) => idempotency::remember(space, key, &answer(), self.limits.answers),
            Once::Session(place) => sessions::remember(space, *place, &answer(), self.limits),
        }
    }
}
