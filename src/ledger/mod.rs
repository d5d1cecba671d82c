//! The replicated machine: members, accounts, intervals, policy, the shared dictionary,
//! client sessions.
//!
//! Pure over an ordered keyspace ([`keyspace::Keyspace`]): the same commands in the same order give the same bytes on
//! every node. Nothing here reads a clock, draws a random number, uses a float or depends on hash-map order; time
//! comes from the log ([`command::Envelope::at`]) and never goes back.
//!
//! How to read it: [`apply::apply`] lets [`command::Once`] decide whether a command is executed, answered from memory
//! ([`idempotency`], [`sessions`]) or refused, and dispatches it to the file of its subject. A payment goes through
//! `intervals` (cut, report), [`settle`] (one apply computes everything), [`hearing`] and [`observers`] (whose reports
//! count, and the verdict), [`judge`] (one member), [`score`] (the arithmetic), [`standing`] (strikes and suspension),
//! [`budget`], [`accounts`] (the movement and its hash). [`agents`] are let in with their keys. Money also moves by [`claims`]; the policy by `rules`. [`query`] reads,
//! [`retention`] forgets what is old, [`webhooks`] remembers how far receivers were told. [`explain`] shows the arithmetic of one payment, [`verify`] recomputes all of them. The rules in words, with a
//! worked example and the canonical bytes: `docs/ledger.md`.

pub mod accounts;
pub mod agents;
pub mod apply;
pub mod backwards;
pub mod blocks;
pub mod budget;
pub mod chain;
pub mod claims;
pub mod command;
mod elections;
pub mod evidence;
pub mod explain;
mod genesis;
pub mod hearing;
pub mod idempotency;
mod intervals;
pub mod judge;
pub mod keys;
pub mod keyspace;
pub mod kv;
pub mod limits;
pub mod maintenance;
mod members;
pub mod observers;
mod once;
pub mod policy;
mod projection;
pub mod query;
pub mod records;
pub mod recoveries;
pub mod rehearse;
pub mod retention;
pub mod roster;
mod rules;
pub mod score;
pub mod sessions;
pub mod settle;
pub mod standing;
mod table;
pub mod verify;
pub mod webhooks;

#[cfg(test)]
pub(crate) mod tests;
