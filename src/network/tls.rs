//! TLS: between super-nodes with certificates on both sides, towards clients with the node's alone.
//!
//! One authority vouches for all super-nodes of a cluster. A super-node speaks on its peer port with nobody that does not show
//! a certificate of that authority, and clients trust whom it vouches for. Clients show tokens, not certificates.
//!
//! What goes wrong here goes wrong at night, with an operator before it who sees one line: [`explain`] says what the
//! other side is or lacks, instead of the name of an alert.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage, RootCertStore, ServerConfig,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
pub use tokio_rustls::TlsConnector;

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// What a client of the framed protocol asks for in the handshake (ALPN, RFC 7301); without it, a connection is HTTP.
pub const FRAMED: &[u8] = b"super-node/framed";
const HTTP: &[u8] = b"http/1.1";

/// The reading half of a connection, encrypted or not.
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half. What was written has left only after a flush.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate of the authority.
    pub ca: PathBuf,
    /// This node's certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {hint}")]
pub struct TlsError {
    /// What is wrong, and in which file.
    pub what: String,
    /// What to do.
    pub hint: String,
}

fn refuse(what: impl Into<String>, hint: impl Into<String>) -> TlsError {
    TlsError { what: what.into(), hint: hint.into() }
}

/// What a super-node needs to speak and to be spoken to.
#[derive(Clone)]
pub struct Tls {
    /// For its peer port.
    pub(super) peers: TlsAcceptor,
    /// To dial peers.
    pub(super) dial: TlsConnector,
    clients: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the files, and sees that they fit together: a node that its own authority does not vouch for would only find
    /// out from its peers.
    ///
    /// # Errors
    /// When a file cannot be read or the three do not belong together.
    pub fn load(files: &Files) -> Result<Tls, TlsError> {
        let roots = Arc::new(roots(&files.ca)?);
        let chain = certificates(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unreadable(&files.key, &error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .map_err(|error| refuse(format!("{}: {error}", files.ca.display()), CERTS_HINT))?;
        verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).map_err(|error| {
            let why = told(&error).unwrap_or_else(|| error.to_string());
            let (cert, ca) = (files.cert.display(), files.ca.display());
            refuse(format!("{cert} against {ca}: {why}"), CERTS_HINT)
        })?;
        let unfit = |error: Error| match error {
            Error::InconsistentKeys(_) => {
                let (key, cert) = (files.key.display(), files.cert.display());
                refuse(format!("{key} is not the key of {cert}"), "name the two that were made together")
            }
            other => refuse(format!("{}: {other}", files.cert.display()), CERTS_HINT),
        };
        let peers = server().with_client_cert_verifier(verifier);
        let peers = peers.with_single_cert(chain.clone(), key.clone_key()).map_err(unfit)?;
        let mut clients =
            server().with_no_client_auth().with_single_cert(chain.clone(), key.clone_key()).map_err(unfit)?;
        clients.alpn_protocols = vec![FRAMED.to_vec(), HTTP.to_vec()];
        let dial = client().with_root_certificates(roots).with_client_auth_cert(chain, key).map_err(unfit)?;
        Ok(Tls {
            peers: Arc::new(peers).into(),
            dial: Arc::new(dial).into(),
            clients: Arc::new(clients).into(),
        })
    }

    /// Shakes hands with a client. The answer says whether it wants to speak frames.
    ///
    /// # Errors
    /// When it does not speak TLS, or not with us.
    pub async fn accept_client(
        &self,
        stream: TcpStream,
    ) -> io::Result<(tokio_rustls::server::TlsStream<TcpStream>, bool)> {
        let stream = within(self.clients.accept(stream)).await?;
        let framed = stream.get_ref().1.alpn_protocol() == Some(FRAMED);
        Ok((stream, framed))
    }
}

const CERTS_HINT: &str = "make certificates with super-node certs; docs/security.md tells how";

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let builder = ServerConfig::builder_with_provider(provider());
    builder.with_safe_default_protocol_versions().expect("ring has the default versions")
}

fn client() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider());
    builder.with_safe_default_protocol_versions().expect("ring has the default versions")
}

fn unreadable(path: &Path, error: &pem::Error) -> TlsError {
    let path = path.display();
    match error {
        pem::Error::Io(error) => refuse(format!("cannot read {path}: {error}"), CERTS_HINT),
        pem::Error::NoItemsFound => refuse(format!("{path} holds nothing of that kind in PEM"), CERTS_HINT),
        other => refuse(format!("{path} is no PEM: {other}"), CERTS_HINT),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    match found {
        Ok(found) if found.is_empty() => Err(unreadable(path, &pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| refuse(format!("{}: {error}", path.display()), CERTS_HINT))?;
    }
    Ok(roots)
}

/// How a client trusts: whom `ca` vouches for, or without it, whom the public authorities do.
///
/// # Errors
/// When `ca` cannot be used.
pub fn client_config(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(path) => roots(path)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| refuse(error.to_string(), CERTS_HINT))?;
    Ok(client().with_webpki_verifier(verifier).with_no_client_auth())
}

/// An HTTP client that trusts so. Every HTTP client of the project begins here: there is no other provider of cryptography.
///
/// # Errors
/// When `ca` cannot be used.
pub fn http(ca: Option<&Path>) -> Result<reqwest::ClientBuilder, TlsError> {
    let mut config = client_config(ca)?;
    config.alpn_protocols = vec![HTTP.to_vec()];
    Ok(reqwest::Client::builder().tls_backend_preconfigured(config))
}

/// To open framed connections to nodes that `ca` vouches for.
///
/// # Errors
/// When `ca` cannot be used.
pub fn framed(ca: Option<&Path>) -> Result<TlsConnector, TlsError> {
    let mut config = client_config(ca)?;
    config.alpn_protocols = vec![FRAMED.to_vec()];
    Ok(Arc::new(config).into())
}

/// The two directions of a connection that is not encrypted.
pub fn plain(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (reader, writer) = stream.into_split();
    (Box::new(reader), Box::new(writer))
}

/// The two directions of one that is.
pub fn halves<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S) -> (ReadHalf, WriteHalf) {
    let (reader, writer) = tokio::io::split(stream);
    (Box::new(reader), Box::new(writer))
}

/// Shakes hands with the server at `host:port`, whose certificate must name that host.
///
/// # Errors
/// When the handshake fails; [`explain`] says why.
pub async fn connect(
    connector: &TlsConnector,
    address: &str,
    stream: TcpStream,
) -> io::Result<(ReadHalf, WriteHalf)> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
    Ok(halves(within(connector.connect(name, stream)).await?))
}

/// Shakes hands with a peer that has dialled.
pub(super) async fn accept_peer(tls: &Tls, stream: TcpStream) -> io::Result<(ReadHalf, WriteHalf)> {
    Ok(halves(within(tls.peers.accept(stream)).await?))
}

async fn within<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let slow = |_elapsed| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time");
    tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(slow)?
}

/// What an error of an encrypted connection means, if it is one of TLS and not of the network.
pub fn explain(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    let Some(error) = inner.downcast_ref::<Error>() else {
        // The library wraps errors of its own connections once more.
        return inner.downcast_ref::<io::Error>().and_then(explain);
    };
    Some(told(error).unwrap_or_else(|| format!("TLS: {error}")))
}

/// An error of TLS in words that name the remedy, where there is a usual one.
fn told(error: &Error) -> Option<String> {
    let text = match error {
        Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is of an authority that is not trusted here: give both sides the same CA"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: renew it, or correct the clock"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: correct the clock"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate does not name the address that it was reached under: make one that does"
            }
            _ => return None,
        },
        Error::NoCertificatesPresented => "it shows no certificate, which super-nodes must here",
        Error::InvalidMessage(InvalidMessage::InvalidContentType)
        | Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => {
            "it does not speak TLS: configure [tls] on both sides or on neither, and use https:// only where it is"
        }
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "it does not trust the authority of the certificate shown to it: give both sides the same CA"
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it demands a certificate: this is a port for super-nodes"
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it finds the certificate shown to it expired: renew it, or correct the clock"
        }
        _ => return None,
    };
    Some(text.to_string())
}
