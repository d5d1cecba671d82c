//! `certs`: the certificates of a cluster, without another tool.
//!
//! Everything that an authority needs is its key and its name, and the name is always the same; so a later call makes
//! certificates of the same authority from `ca.key` alone.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use crate::types::NodeId;

use super::{CliError, Output};

/// How long an authority is good for, in days.
const CA_DAYS: i64 = 3_650;
/// Certificates are good from so long before now: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::hours(1);
/// Every node is reached from its own machine under these.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// `certs`
#[derive(Debug, Clone, Args)]
#[command(after_long_help = HELP)]
pub struct CertsArgs {
    /// The super-nodes, with the host names and addresses under which others reach them
    #[arg(required = true, value_name = "ID[=HOST,HOST]", value_parser = subject)]
    pub nodes: Vec<Subject>,
    /// Where the files are written, and an authority made before is found
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub dir: PathBuf,
    /// How long the certificates are good for
    #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(i64).range(1..=CA_DAYS))]
    pub days: i64,
    /// Replace certificates that exist, to renew them
    #[arg(long)]
    pub renew: bool,
}

const HELP: &str = "\
Writes ca.pem and ca.key, unless they are there, and ID.pem and ID.key for every super-node. A super-node needs ca.pem and its \
own two ([tls] in its configuration); clients need ca.pem (--ca). Keep ca.key away from all of them: whoever has it can \
be a super-node.

  super-node certs n1=10.0.0.1,node-1.example n2=10.0.0.2 n3=10.0.0.3";

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    id: NodeId,
    hosts: Vec<String>,
}

fn subject(text: &str) -> Result<Subject, String> {
    let (id, hosts) = text.split_once('=').unwrap_or((text, ""));
    let id = id.parse().map_err(|error: crate::types::NameError| error.to_string())?;
    let hosts: Vec<String> =
        hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(Into::into).collect();
    let usable = |host: &&String| {
        let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'*');
        host.parse::<IpAddr>().is_err() && !host.bytes().all(name)
    };
    match hosts.iter().find(usable) {
        Some(wrong) => Err(format!("'{wrong}' is no host name and no IP address; leave ports out")),
        None => Ok(Subject { id, hosts }),
    }
}

/// Makes what is missing.
pub fn run(args: &CertsArgs, output: &mut Output) -> Result<(), CliError> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| CliError::failed(format!("{path}: {error}"))
    };
    std::fs::create_dir_all(&args.dir).map_err(at(&args.dir))?;
    let (ca, ca_key) = (args.dir.join("ca.pem"), args.dir.join("ca.key"));
    let mut written = Vec::new();
    let key = if ca_key.exists() {
        let text = std::fs::read_to_string(&ca_key).map_err(at(&ca_key))?;
        KeyPair::from_pem(&text)
            .map_err(|error| CliError::failed(format!("{} is no key: {error}", ca_key.display())))?
    } else if ca.exists() {
        return Err(CliError::usage(
            format!("{} is there without {}", ca.display(), ca_key.display()),
            "bring its key, or choose another --dir for another authority",
        ));
    } else {
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = authority().self_signed(&key).map_err(failed)?;
        write(&ca_key, &key.serialize_pem(), 0o600, false).map_err(at(&ca_key))?;
        write(&ca, &certificate.pem(), 0o644, false).map_err(at(&ca))?;
        written.extend([ca, ca_key]);
        key
    };
    let issuer = Issuer::new(authority(), key);
    for node in &args.nodes {
        let file = |end: &str| args.dir.join(format!("{}.{end}", node.id));
        let (cert, node_key) = (file("pem"), file("key"));
        if !args.renew && (cert.exists() || node_key.exists()) {
            return Err(CliError::usage(
                format!("{} is there already", cert.display()),
                "--renew replaces it; then start the super-node again",
            ));
        }
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = of_node(node, args.days)?.signed_by(&key, &issuer).map_err(failed)?;
        write(&node_key, &key.serialize_pem(), 0o600, args.renew).map_err(at(&node_key))?;
        write(&cert, &certificate.pem(), 0o644, args.renew).map_err(at(&cert))?;
        written.extend([cert, node_key]);
    }
    let rows: Vec<_> = written.iter().map(|path| vec![path.display().to_string()]).collect();
    let items: Vec<_> = written.iter().map(|path| json!({ "file": path })).collect();
    Ok(output.list(&["WRITTEN"], &rows, &items)?)
}

fn failed(error: rcgen::Error) -> CliError {
    CliError::failed(format!("cannot make a certificate: {error}"))
}

/// The authority, which is known by its key; its name is the same in every cluster.
fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "super-node cluster CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    good_for(&mut params, CA_DAYS);
    params
}

fn of_node(node: &Subject, days: i64) -> Result<CertificateParams, CliError> {
    let hosts = LOCAL.into_iter().map(str::to_string).chain(node.hosts.iter().cloned());
    let mut params = CertificateParams::new(hosts.collect::<Vec<_>>()).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, node.id.as_str());
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // It is shown by who dials and by who is dialled.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    good_for(&mut params, days);
    Ok(params)
}

fn good_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - CLOCKS_DIFFER, now + Duration::days(days));
}

/// Writes a file that does not exist, or replaces one in a single step.
fn write(path: &Path, text: &str, mode: u32, replace: bool) -> io::Result<()> {
    if !replace {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        return file.write_all(text.as_bytes());
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_with_the_hosts_under_which_it_is_reached() {
        let node = subject("n1=10.0.0.1, node-1.example,::1").expect("a node");
        assert_eq!((node.id.as_str(), node.hosts.len()), ("n1", 3));
        assert_eq!(subject("n2").expect("a node").hosts.len(), 0);
        for wrong in ["", "n 1", "n1=10.0.0.1:7401", "n1=https://x", "n1=a b"] {
            assert!(subject(wrong).is_err(), "{wrong}");
        }
    }
}
