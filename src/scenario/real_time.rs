//! A scenario in real time: processes of any program that speaks the protocol, over UDP on this machine.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::types::Micros;

use super::course::{Action, Course, address};
use super::file::Scenario;

/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long processes have to end when they are asked to.
const GRACE: Duration = Duration::from_secs(2);
/// Longest datagram, in bytes.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Most datagrams that are carried before anything else is looked at.
const BATCH_MAX: usize = 256;

/// The processes. None of them outlives this value.
struct Processes(Vec<Child>);

impl Processes {
    /// Asks them to end, waits for a while, and kills those that did not.
    fn stop(&mut self) {
        for child in &self.0 {
            if let Ok(pid) = i32::try_from(child.id())
                && let Some(pid) = Pid::from_raw(pid)
            {
                // It may have ended already.
                let _gone = kill_process(pid, Signal::TERM);
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < GRACE && self.0.iter_mut().any(|child| matches!(child.try_wait(), Ok(None))) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    fn kill(&mut self) {
        for child in &mut self.0 {
            // Both only fail for a process that has ended and was waited for.
            let _ended = child.kill();
            let _waited = child.wait();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Plays a scenario to its end, or until `stop` is set, with replicas started as `program PORT ID PEER…` after `arguments`.
///
/// # Errors
/// When the socket cannot be used or the program cannot be started.
pub fn in_real_time(
    scenario: &Scenario,
    seed: u64,
    program: &Path,
    arguments: &[&str],
    stop: &AtomicBool,
) -> io::Result<Course> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    let mut course = Course::new(scenario.clone(), seed);
    let begun = Instant::now();
    let now = || Micros(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    let mut processes = Processes(Vec::new());
    for replica in 0..scenario.replicas {
        let others = (0..scenario.replicas).filter(|other| *other != replica).map(address);
        let child = Command::new(program)
            .args(arguments)
            .arg(port.to_string())
            .arg(address(replica))
            .args(others)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        processes.0.push(child);
    }
    let (ports, replicas) = (BTreeMap::new(), BTreeMap::new());
    let mut carrier = Carrier { socket, number: scenario.replicas, ports, replicas };
    let mut next_look = now();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while now() < course.end() && !stop.load(Ordering::Relaxed) {
        let due = course.deadline().min(next_look).min(course.end());
        carrier.wait(due.since(now()))?;
        for _ in 0..BATCH_MAX {
            let Some((from, length)) = carrier.receive(&mut buffer)? else { break };
            let actions = course.receive(now(), from, &buffer[..length]);
            carrier.act(actions, &mut processes);
        }
        if course.deadline() <= now() {
            let actions = course.tick(now());
            carrier.act(actions, &mut processes);
        }
        if next_look <= now() {
            next_look = now().after(LOOK);
            for (replica, child) in processes.0.iter_mut().enumerate() {
                if let Some(status) = child.try_wait()? {
                    course.died(replica, &format!("ended: {status}"));
                }
            }
        }
    }
    processes.stop();
    Ok(course)
}

struct Carrier {
    socket: UdpSocket,
    /// How many replicas there are.
    number: usize,
    /// Where each replica is, learned from its first message.
    ports: BTreeMap<usize, SocketAddr>,
    replicas: BTreeMap<SocketAddr, usize>,
}

impl Carrier {
    fn wait(&self, longest: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(longest).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The next datagram that comes from a replica.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, usize)>> {
        loop {
            let (length, from) = match self.socket.recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // The news that a killed replica does not listen any more.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            if let Some(replica) = self.replicas.get(&from) {
                return Ok(Some((*replica, length)));
            }
            let named = serde_json::from_slice::<Value>(&buffer[..length]).ok();
            let named = named.and_then(|message| usize::from_str_radix(message["src"].as_str()?, 16).ok());
            if let Some(replica) =
                named.filter(|replica| *replica < self.number && !self.ports.contains_key(replica))
            {
                self.ports.insert(replica, from);
                self.replicas.insert(from, replica);
                return Ok(Some((replica, length)));
            }
        }
    }

    fn act(&self, actions: Vec<Action>, processes: &mut Processes) {
        for action in actions {
            match action {
                Action::Deliver { to, datagram, .. } => {
                    if let Some(address) = self.ports.get(&to) {
                        // A full queue loses a datagram, as a network may.
                        let _lost = self.socket.send_to(&datagram, address);
                    }
                }
                Action::Kill { replica } => {
                    let _ended = processes.0[replica].kill();
                }
            }
        }
    }
}
