//! Strikes, suspension, probation: how a member's standing moves from one settled interval to the next.

use serde::{Deserialize, Serialize};

use super::policy::{Policy, PolicyKind};
use super::records::{Member, MemberStatus};
use super::score::Score;

/// Strikes for a dark interval.
pub const STRIKES_PER_DARK_INTERVAL: u32 = 4;
/// From this many strikes on a member is suspended.
pub const STRIKES_MAX: u32 = 40;
/// The first suspension, in settled intervals; each further one is twice as long.
pub const SUSPENSION_INTERVALS: u32 = 10;
/// The longest suspension, in settled intervals.
pub const SUSPENSION_INTERVALS_MAX: u32 = 640;
/// Good intervals that probation asks for.
pub const PROBATION_INTERVALS: u32 = 3;
/// Strikes with which probation begins.
pub const PROBATION_STRIKES: u32 = 20;
/// Classic: missed turns in a row that lead to suspension.
pub const CLASSIC_MISSES_MAX: u32 = 10;
/// Classic: length of a suspension, milliseconds.
pub const CLASSIC_COOLDOWN_MS: u64 = 600_000;

/// How a member stands with the ledger. Leaving does not change it: who comes back finds it as it was.
///
/// Invariants: `status` is never [`MemberStatus::Left`]; `remaining` is 0 exactly while active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Active, suspended or on probation.
    pub status: MemberStatus,
    /// Strikes (classic: missed turns in a row).
    pub strikes: u32,
    /// How often it was suspended.
    pub suspensions: u32,
    /// Settled intervals of cooldown left, or good intervals still to go on probation.
    pub remaining: u32,
}

impl Default for Standing {
    fn default() -> Self {
        Standing { status: MemberStatus::Active, strikes: 0, suspensions: 0, remaining: 0 }
    }
}

/// What a settled interval changed about a member's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandingChange {
    /// Suspended, for so many settled intervals.
    Suspended(u32),
    /// The cooldown is over.
    Probation,
    /// Active again.
    Reinstated,
}

impl Standing {
    /// The standing of a member that has not left.
    pub fn of(member: &Member) -> Standing {
        Standing {
            status: member.status,
            strikes: member.strikes,
            suspensions: member.suspensions,
            remaining: member.remaining,
        }
    }

    /// Whether rewards reach the account.
    pub fn is_paid(&self) -> bool {
        self.status == MemberStatus::Active
    }

    /// Whether penalties reach the account: a suspended member is neither paid nor fined.
    pub fn is_fined(&self) -> bool {
        self.status != MemberStatus::Suspended
    }

    /// The standing after an interval, and what changed. `score` is `None` when there was too little evidence, or when
    /// the member was excused: nobody is struck for that, but a cooldown runs on. `strikes_count` is false in an interval
    /// in which most members were dark: nobody is struck, and no cooldown passes; good conduct still counts.
    pub fn after(
        self,
        policy: &Policy,
        score: Option<&Score>,
        strikes_count: bool,
    ) -> (Standing, Option<StandingChange>) {
        if self.status == MemberStatus::Suspended {
            return if strikes_count { self.cool_down(policy) } else { (self, None) };
        }
        let Some(score) = score.filter(|score| strikes_count || !score.is_dark()) else {
            return (self, None);
        };
        let (strikes, strikes_max, cooldown) = match policy.kind {
            PolicyKind::Standard => {
                let strikes = if score.is_dark() {
                    self.strikes.saturating_add(STRIKES_PER_DARK_INTERVAL)
                } else {
                    self.strikes.saturating_sub(u32::from(score.is_good()))
                };
                (strikes, STRIKES_MAX, doubled(self.suspensions))
            }
            PolicyKind::Classic => {
                let misses = if score.is_dark() { self.strikes.saturating_add(1) } else { 0 };
                (misses, CLASSIC_MISSES_MAX, classic_cooldown(policy))
            }
        };
        let after = Standing { strikes, ..self };
        if strikes >= strikes_max {
            let suspended = Standing {
                status: MemberStatus::Suspended,
                suspensions: self.suspensions.saturating_add(1),
                remaining: cooldown,
                ..after
            };
            return (suspended, Some(StandingChange::Suspended(cooldown)));
        }
        if self.status == MemberStatus::Probation && score.is_good() {
            return after.advance_probation();
        }
        (after, None)
    }

    fn cool_down(self, policy: &Policy) -> (Standing, Option<StandingChange>) {
        let remaining = self.remaining.saturating_sub(1);
        if remaining > 0 {
            return (Standing { remaining, ..self }, None);
        }
        match policy.kind {
            PolicyKind::Standard => {
                let probation = Standing {
                    status: MemberStatus::Probation,
                    strikes: PROBATION_STRIKES,
                    remaining: PROBATION_INTERVALS,
                    ..self
                };
                (probation, Some(StandingChange::Probation))
            }
            PolicyKind::Classic => {
                let active = Standing { status: MemberStatus::Active, strikes: 0, remaining: 0, ..self };
                (active, Some(StandingChange::Reinstated))
            }
        }
    }

    fn advance_probation(self) -> (Standing, Option<StandingChange>) {
        let remaining = self.remaining.saturating_sub(1);
        if remaining > 0 {
            return (Standing { remaining, ..self }, None);
        }
        let active = Standing { status: MemberStatus::Active, remaining: 0, ..self };
        (active, Some(StandingChange::Reinstated))
    }
}

/// Length of the next suspension after `suspensions` earlier ones.
fn doubled(suspensions: u32) -> u32 {
    let factor = 1_u32.checked_shl(suspensions).unwrap_or(u32::MAX);
    SUSPENSION_INTERVALS.saturating_mul(factor).min(SUSPENSION_INTERVALS_MAX)
}

/// Ten minutes in settled intervals, rounded up; at least one.
fn classic_cooldown(policy: &Policy) -> u32 {
    let intervals = CLASSIC_COOLDOWN_MS.div_ceil(policy.interval_ms.max(1));
    u32::try_from(intervals).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspensions_double_up_to_the_longest() {
        let lengths: Vec<u32> = (0..9).map(doubled).collect();
        assert_eq!(lengths, [10, 20, 40, 80, 160, 320, 640, 640, 640]);
        assert_eq!((doubled(31), doubled(32), doubled(u32::MAX)), (640, 640, 640));
    }

    #[test]
    fn classic_cooldown_is_ten_minutes_rounded_up() {
        for (interval_ms, intervals) in
            [(60_000, 10), (7_000, 86), (600_000, 1), (3_600_000, 1), (5_000, 120)]
        {
            assert_eq!(classic_cooldown(&Policy { interval_ms, ..Policy::default() }), intervals);
        }
    }
}
