//! Random histories with crashes at any call of the disk: acknowledged batches always survive, in order.

use super_node::node::ports::LogStore as _;
use super_node::raft::{Base, HardState, Persist};
use super_node::storage::MemoryDisk;
use super_node::types::{Index, Term};

use super::model::{Model, Random, entry, try_open};

const SEEDS: u64 = 150;
const STEPS: u64 = 40;

/// A batch that the core could emit after `model`.
fn batch(model: &Model, random: &mut Random) -> Persist {
    let mut model = model.clone();
    let mut batch = Persist { seq: 1, hard_state: None, base: None, entries: Vec::new() };
    if random.below(3) == 0 {
        let vote = ["n1", "n2", ""][usize::try_from(random.below(3)).expect("small")].parse().ok();
        let term = Term(model.0.hard_state.term.0 + random.below(2));
        batch.hard_state = Some(HardState { term, vote });
    }
    if random.below(6) == 0 {
        let (first, last) = (model.0.base.index.0, model.last().0);
        let index = first + random.below(last - first + 3);
        let known = model.0.entries.iter().find(|entry| entry.index.0 == index).map(|entry| entry.term);
        let term = known.filter(|_| random.below(8) != 0).unwrap_or(Term(50));
        batch.base = Some(Base { index: Index(index), term });
        model.set_base(Base { index: Index(index), term });
    }
    for _ in 0..random.below(5) {
        let (first, last) = (model.0.base.index.0, model.last().0);
        let index = if random.below(6) == 0 { first + 1 + random.below(last - first + 1) } else { last + 1 };
        let most = if random.below(10) == 0 { 1500 } else { 120 };
        let bytes = usize::try_from(random.below(most)).expect("small");
        let entry = entry(index, 60 + random.below(3), bytes);
        model.push(entry.clone());
        batch.entries.push(entry);
    }
    batch
}

/// Ends the process: with the system in a power cut, or alone, so that the system's memory keeps what was not synced.
fn end_process(disk: &mut MemoryDisk, random: &mut Random) {
    if random.below(3) == 0 { disk.fail_after(u64::MAX) } else { disk.crash(random.next()) }
}

/// Opens, crashing some openings halfway; the last one succeeds and must hold one of `allowed`.
fn reopen(disk: &mut MemoryDisk, random: &mut Random, allowed: &[Model], context: &str) -> Model {
    while random.below(3) == 0 {
        disk.fail_after(random.below(6));
        drop(try_open(disk));
        end_process(disk, random);
    }
    let opened = try_open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let found = Model(opened.recovered);
    assert!(allowed.contains(&found), "{context}: found {found:?}, allowed {allowed:?}");
    found
}

#[test]
fn acknowledged_batches_survive_crashes_at_any_call() {
    let (mut crashes, mut kept, mut lost) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut disk = MemoryDisk::new();
        let mut model = Model::default();
        let mut log = try_open(&disk).unwrap().log;
        for step in 0..STEPS {
            let context = format!("seed {seed}, step {step}");
            let mut stages = vec![model.clone()];
            let batches: Vec<Persist> = (0..1 + random.below(3))
                .map(|_| {
                    let batch = batch(stages.last().expect("not empty"), &mut random);
                    let mut next = stages.last().expect("not empty").clone();
                    stages.extend(next.stages(&batch));
                    batch
                })
                .collect();
            let crashes_here = random.below(4) == 0;
            if crashes_here {
                disk.fail_after(random.below(9));
            }
            let acknowledged = log.append(&batches).is_ok();
            if acknowledged {
                stages.drain(..stages.len() - 1);
            }
            model = stages.last().expect("not empty").clone();
            if crashes_here {
                end_process(&mut disk, &mut random);
                crashes += 1;
                let found = reopen(&mut disk, &mut random, &stages, &context);
                if !acknowledged {
                    *if found == model { &mut kept } else { &mut lost } += 1;
                }
                model = found;
                log = try_open(&disk).unwrap_or_else(|error| panic!("{context}: {error}")).log;
            } else {
                assert!(acknowledged, "{context}: an append failed without a planned failure");
            }
        }
    }
    assert!(crashes > SEEDS && kept > 20 && lost > 20, "{crashes} crashes, {kept} kept, {lost} lost");
}
