//! The network between the hosts: which links are cut, and what the weather does to frames.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::dice::Dice;

/// What the streams of links are numbered from.
const LINK_STREAMS: u64 = 1 << 32;
/// Delay of a frame in good weather.
const LATENCY: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(3));

/// How bad the network is, in parts per million.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Frames lost.
    pub loss_ppm: u64,
    /// Frames delivered twice.
    pub double_ppm: u64,
    /// Frames delayed.
    pub slow_ppm: u64,
    /// By how much at most.
    pub slow_by: Duration,
}

/// The links that an act cuts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// One, in one direction.
    OneWay(usize, usize),
    /// All between these hosts and the others, also those that join while it lasts.
    Sides(BTreeSet<usize>),
}

impl Cut {
    fn parts(&self, from: usize, to: usize) -> bool {
        match self {
            Cut::OneWay(start, end) => (*start, *end) == (from, to),
            Cut::Sides(side) => side.contains(&from) != side.contains(&to),
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, Default)]
pub struct Fate {
    /// After how long each copy arrives; none if it is lost.
    pub copies: [Option<Duration>; 2],
    /// The kinds of weather that it met.
    pub met: [Option<&'static str>; 2],
}

/// See the module's head.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    /// What each act cuts.
    cuts: BTreeMap<u32, Cut>,
    /// The weather that each act makes.
    weathers: BTreeMap<u32, Weather>,
    /// What all of them come to.
    weather: Weather,
    /// One source of dice per directed link, so that one link's frames do not move another's.
    links: BTreeMap<(usize, usize), Dice>,
}

impl Network {
    /// All links whole, the weather fine.
    pub fn new(seed: u64) -> Network {
        Network {
            seed,
            cuts: BTreeMap::new(),
            weathers: BTreeMap::new(),
            weather: Weather::default(),
            links: BTreeMap::new(),
        }
    }

    /// An act cuts links.
    pub fn cut(&mut self, act: u32, cut: Cut) {
        self.cuts.insert(act, cut);
    }

    /// An act cuts them no more.
    pub fn mend(&mut self, act: u32) {
        self.cuts.remove(&act);
    }

    /// Whether frames from one to the other are lost.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.values().any(|cut| cut.parts(from, to))
    }

    /// The acts by which they are.
    pub fn cut_by(&self, from: usize, to: usize) -> Vec<u32> {
        self.cuts.iter().filter(|(_, cut)| cut.parts(from, to)).map(|(act, _)| *act).collect()
    }

    /// An act makes a weather, or ends it.
    pub fn set_weather(&mut self, act: u32, weather: Option<Weather>) {
        match weather {
            Some(weather) => self.weathers.insert(act, weather),
            None => self.weathers.remove(&act),
        };
        self.weather = self.weathers.values().fold(Weather::default(), |worst, weather| Weather {
            loss_ppm: worst.loss_ppm.max(weather.loss_ppm),
            double_ppm: worst.double_ppm.max(weather.double_ppm),
            slow_ppm: worst.slow_ppm.max(weather.slow_ppm),
            slow_by: worst.slow_by.max(weather.slow_by),
        });
    }

    /// Everything is whole again.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.weathers.clear();
        self.weather = Weather::default();
    }

    /// What becomes of a frame.
    pub fn fate(&mut self, from: usize, to: usize) -> Fate {
        let seed = self.seed;
        let stream = LINK_STREAMS + ((from as u64) << 16) + to as u64;
        let weather = self.weather;
        let dice = self.links.entry((from, to)).or_insert_with(|| Dice::stream(seed, stream));
        let mut fate = Fate::default();
        if weather.loss_ppm > 0 && dice.chance(weather.loss_ppm) {
            fate.met[0] = Some("loss");
            return fate;
        }
        let doubled = weather.double_ppm > 0 && dice.chance(weather.double_ppm);
        fate.met[0] = doubled.then_some("duplication");
        for copy in &mut fate.copies[..if doubled { 2 } else { 1 }] {
            let slow = weather.slow_ppm > 0 && dice.chance(weather.slow_ppm);
            let (least, most) = LATENCY;
            *copy = Some(dice.span(least, if slow { most.max(weather.slow_by) } else { most }));
            if slow {
                fate.met[1] = Some("delay");
            }
        }
        fate
    }

    /// Whether frames are lost, or late, anywhere.
    pub fn is_stormy(&self) -> bool {
        self.weather.loss_ppm > 0 || self.weather.slow_ppm > 0
    }

    /// Frames lost now, in parts per million.
    pub fn loss_ppm(&self) -> u64 {
        self.weather.loss_ppm
    }
}
