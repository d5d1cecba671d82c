//! `replica`: the course's key-value store, behind its simulator.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use crate::types::NodeId;

use super::CliError;

/// Names under which this program is a replica: those that the course's simulator calls.
const NAMES: &[&str] = &["4730kvstore", "3700kvstore"];

/// `replica`
#[derive(Debug, Clone, Args)]
pub struct ReplicaArgs {
    /// The UDP port of the simulator on this machine
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// This replica's address, such as 0000
    #[arg(value_name = "ID", value_parser = address)]
    pub id: NodeId,
    /// The other replicas' addresses
    #[arg(value_name = "PEER", value_parser = address)]
    pub peers: Vec<NodeId>,
}

/// The arguments, with `replica` put in where the program's own name says so.
pub fn as_named(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let name = arguments.first().and_then(|name| Path::new(name).file_name()?.to_str());
    if name.is_some_and(|name| NAMES.contains(&name)) {
        arguments.insert(1, OsString::from("replica"));
    }
    arguments
}

/// Serves until it is killed.
pub fn run(args: &ReplicaArgs) -> Result<(), CliError> {
    let others: BTreeSet<NodeId> = args.peers.iter().filter(|peer| **peer != args.id).cloned().collect();
    crate::replica::run(args.port, args.id.clone(), others)
        .map_err(|error| CliError::failed(format!("cannot use a UDP socket on 127.0.0.1: {error}")))
}

fn address(text: &str) -> Result<NodeId, String> {
    let hex = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hex || text.eq_ignore_ascii_case(crate::replica::wire::BROADCAST) {
        return Err("an address is 4 hexadecimal digits, and not FFFF".to_string());
    }
    text.parse().map_err(|error: crate::types::NameError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_course_make_it_a_replica() {
        let named = |name: &str| {
            as_named([name, "7000", "0000"].iter().map(OsString::from)).join(&OsString::from(" "))
        };
        assert_eq!(named("./4730kvstore"), "./4730kvstore replica 7000 0000");
        assert_eq!(named("/a/3700kvstore"), "/a/3700kvstore replica 7000 0000");
        assert_eq!(named("/4730kvstore/super-node"), "/4730kvstore/super-node 7000 0000");
    }

    #[test]
    fn addresses_are_four_hexadecimal_digits() {
        assert!(address("0000").is_ok() && address("00aF").is_ok());
        for wrong in ["000", "00000", "00G0", "FFFF", "ffff"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
