//! A network of one's own for real processes: a namespace per node, and one with a bridge that joins them.
//!
//! Clients live in the test's own namespace and reach every node at all times; what the nodes hear of each other is cut
//! by nftables rules where it comes in, one direction at a time. Everything is removed on drop; what a killed test left
//! behind is removed by the next one, which knows it by its name and the dead process in it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cluster::{Place, on_path};

/// Namespaces of such tests begin so; the id of the test's process follows.
const PREFIX: &str = "sn-torment-";
/// The programs that it takes.
const TOOLS: [&str; 3] = ["ip", "nft", "setpriv"];

/// What a rule stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    All,
    /// Only what consensus says.
    Tcp,
    /// Only pings.
    Udp,
}

/// The network; see the module's head.
pub struct Field {
    switch: String,
    nodes: Vec<String>,
    /// The network is `10.231.SUBNET.0/24`; node `n` is host `n + 1`.
    subnet: u8,
    /// From whom, to whom: what is not heard.
    cuts: BTreeSet<(usize, usize, Traffic)>,
    /// Of a hundred packets between nodes, how many are lost.
    loss: u8,
}

/// Runs a program; what it complained about if it failed.
fn run(words: &[&str]) -> Result<String, String> {
    feed(words, "")
}

fn feed(words: &[&str], input: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", words.join(" "));
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Removes the namespaces of tests that do not live any more.
fn sweep() {
    for line in run(&["ip", "netns", "list"]).unwrap_or_default().lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(process) = process
            && !std::path::Path::new("/proc").join(process).exists()
        {
            let _another_sweep_was_faster = run(&["ip", "netns", "delete", name]);
        }
    }
}

impl Field {
    /// Lays a network for so many nodes.
    ///
    /// # Errors
    /// Why this machine cannot have one, in one line.
    pub fn lay(nodes: usize) -> Result<Field, String> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        if !cfg!(target_os = "linux") {
            return Err("network namespaces are a thing of Linux".to_string());
        }
        if let Some(tool) = TOOLS.iter().find(|tool| !on_path(tool)) {
            return Err(format!("the program '{tool}' is not installed"));
        }
        sweep();
        let name = format!("{PREFIX}{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let switch = format!("{name}-switch");
        run(&["ip", "netns", "add", &switch])?;
        // From here on, dropping the value removes what there is.
        let mut field = Field { switch, nodes: Vec::new(), subnet: 0, cuts: BTreeSet::new(), loss: 0 };
        field.lay_switch()?;
        for number in 1..=nodes {
            field.add_node(format!("{name}-n{number}"), number)?;
        }
        field.apply()?;
        Ok(field)
    }

    fn lay_switch(&mut self) -> Result<(), String> {
        let switch = self.switch.clone();
        run(&["ip", "-n", &switch, "link", "add", "bridge0", "type", "bridge"])?;
        run(&["ip", "-n", &switch, "link", "set", "bridge0", "up"])?;
        let wire = self.claim_subnet()?;
        run(&["ip", "-n", &switch, "link", "set", "clients", "master", "bridge0", "up"])?;
        run(&["ip", "address", "add", &format!("10.231.{}.254/24", self.subnet), "dev", &wire])?;
        run(&["ip", "link", "set", &wire, "up"])?;
        Ok(())
    }

    /// Chooses a network that nobody uses. The name of its wire on this side is the claim: there is one of each name.
    fn claim_subnet(&mut self) -> Result<String, String> {
        let routes = run(&["ip", "-4", "route", "show", "table", "all"])?;
        let mut last = "every network of 10.231.0.0/16 is in use".to_string();
        for attempt in 0..=u8::MAX {
            let subnet = attempt.wrapping_add(std::process::id().to_le_bytes()[0]);
            if routes.contains(&format!("10.231.{subnet}.")) {
                continue;
            }
            let wire = format!("sn-torment{subnet}");
            let pair = ["type", "veth", "peer", "name", "clients", "netns", &self.switch];
            let mut words = vec!["ip", "link", "add", &wire];
            words.extend(pair);
            match run(&words) {
                Ok(_) => {
                    self.subnet = subnet;
                    return Ok(wire);
                }
                Err(why) if why.contains("File exists") => last = why,
                Err(why) => return Err(why),
            }
        }
        Err(last)
    }

    fn add_node(&mut self, name: String, number: usize) -> Result<(), String> {
        run(&["ip", "netns", "add", &name])?;
        self.nodes.push(name.clone());
        let port = format!("port{number}");
        run(&[
            "ip",
            "-n",
            &name,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            &port,
            "netns",
            &self.switch,
        ])?;
        run(&["ip", "-n", &self.switch, "link", "set", &port, "master", "bridge0", "up"])?;
        run(&["ip", "-n", &name, "address", "add", &format!("{}/24", self.host(number - 1)), "dev", "eth0"])?;
        run(&["ip", "-n", &name, "link", "set", "eth0", "up"])?;
        run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        Ok(())
    }

    fn host(&self, at: usize) -> String {
        format!("10.231.{}.{}", self.subnet, at + 1)
    }

    /// Where the nodes of a cluster run.
    pub fn places(&self) -> Vec<Place> {
        let place =
            |(at, name): (usize, &String)| Place { host: self.host(at), namespace: Some(name.clone()) };
        self.nodes.iter().enumerate().map(place).collect()
    }

    /// From here on, `to` hears nothing that `from` says.
    pub fn cut(&mut self, from: usize, to: usize, traffic: Traffic) {
        self.cuts.insert((from, to, traffic));
        self.must_apply();
    }

    /// From here on, those in the list and the others do not hear each other.
    pub fn split(&mut self, some: &[usize]) {
        for one in some {
            for other in (0..self.nodes.len()).filter(|other| !some.contains(other)) {
                self.cuts.insert((*one, other, Traffic::All));
                self.cuts.insert((other, *one, Traffic::All));
            }
        }
        self.must_apply();
    }

    /// From here on, so many of a hundred packets between nodes are lost.
    pub fn lose(&mut self, percent: u8) {
        self.loss = percent;
        self.must_apply();
    }

    /// What is sent by every node goes slowly: late if the kernel can do that, else through a thin wire on which
    /// packets queue. Says which. `None`: at full speed again.
    pub fn slow(&mut self, delay_ms: Option<u32>) -> String {
        let Some(delay_ms) = delay_ms else {
            for node in &self.nodes {
                let _was_never_slow = run(&["tc", "-n", node, "qdisc", "delete", "dev", "eth0", "root"]);
            }
            return "at full speed".to_string();
        };
        let (delay, jitter) = (format!("{delay_ms}ms"), format!("{}ms", delay_ms / 2));
        let netem = ["netem", "delay", &delay, &jitter];
        let thin = ["tbf", "rate", "2mbit", "burst", "8kb", "latency", &delay];
        let set = |kind: &[&str]| {
            self.nodes.iter().try_for_each(|node| {
                let mut words = vec!["tc", "-n", node, "qdisc", "replace", "dev", "eth0", "root"];
                words.extend(kind);
                run(&words).map(|_| ())
            })
        };
        if set(&netem).is_ok() {
            return format!("packets are {delay_ms} ms late, half of that more or less");
        }
        match set(&thin) {
            Ok(()) => format!("2 Mbit/s, a queue of {delay_ms} ms (the kernel has no netem)"),
            Err(why) => format!("at full speed: {why}"),
        }
    }

    /// Everybody hears everything again.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.loss = 0;
        self.must_apply();
    }

    fn must_apply(&self) {
        self.apply().expect("rules that were accepted before");
    }

    /// Writes the rules of every node anew; each node's change at once.
    fn apply(&self) -> Result<(), String> {
        for (to, name) in self.nodes.iter().enumerate() {
            let mut rules = String::new();
            for (from, _, traffic) in self.cuts.iter().filter(|cut| cut.1 == to) {
                let what = match traffic {
                    Traffic::All => "",
                    Traffic::Tcp => "ip protocol tcp ",
                    Traffic::Udp => "ip protocol udp ",
                };
                let _infallible = writeln!(rules, "ip saddr {} {what}drop", self.host(*from));
            }
            if self.loss > 0 {
                // Clients are host 254.
                let _infallible = writeln!(
                    rules,
                    "ip saddr 10.231.{0}.1-10.231.{0}.200 numgen random mod 100 < {1} drop",
                    self.subnet, self.loss
                );
            }
            let table = format!(
                "table inet torment\ndelete table inet torment\ntable inet torment {{\n chain hears {{\n \
                 type filter hook input priority 0; policy accept;\n{rules} }}\n}}\n"
            );
            feed(&["ip", "netns", "exec", name, "nft", "-f", "-"], &table)?;
        }
        Ok(())
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        for name in self.nodes.iter().chain([&self.switch]) {
            if let Err(why) = run(&["ip", "netns", "delete", name]) {
                eprintln!("a network namespace stays behind: {why}");
            }
        }
    }
}
