//! The network between the hosts: which links are cut, and what the weather does to frames.

use std::collections::BTreeMap;
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

/// See the module's head.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    /// How many faults cut a directed link.
    cuts: BTreeMap<(usize, usize), u32>,
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

    /// Cuts a directed link, once more.
    pub fn cut(&mut self, from: usize, to: usize) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    /// Takes one cut back.
    pub fn mend(&mut self, from: usize, to: usize) {
        if let Some(cuts) = self.cuts.get_mut(&(from, to)) {
            *cuts -= 1;
            if *cuts == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    /// Whether frames from one to the other are lost.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains_key(&(from, to))
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

    /// After how long each copy of a frame arrives; none if it is lost.
    pub fn fate(&mut self, from: usize, to: usize) -> [Option<Duration>; 2] {
        let seed = self.seed;
        let stream = LINK_STREAMS + ((from as u64) << 16) + to as u64;
        let weather = self.weather;
        let dice = self.links.entry((from, to)).or_insert_with(|| Dice::stream(seed, stream));
        let mut copies = [None; 2];
        if weather.loss_ppm > 0 && dice.chance(weather.loss_ppm) {
            return copies;
        }
        let doubled = weather.double_ppm > 0 && dice.chance(weather.double_ppm);
        for copy in &mut copies[..if doubled { 2 } else { 1 }] {
            let slow = weather.slow_ppm > 0 && dice.chance(weather.slow_ppm);
            let (least, most) = LATENCY;
            *copy = Some(dice.span(least, if slow { most.max(weather.slow_by) } else { most }));
        }
        copies
    }

    /// Frames lost now, in parts per million.
    pub fn loss_ppm(&self) -> u64 {
        self.weather.loss_ppm
    }
}
