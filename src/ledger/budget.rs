//! The budget of an interval: when all rewards together would be more, each gets its share of it.

use std::collections::BTreeMap;

use crate::types::{Amount, MemberId};

/// What each member gets of what it has earned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grants {
    /// All of it.
    Whole,
    /// Its share of the budget.
    Shared {
        /// What all have earned together, in micro-points.
        total: i128,
        /// Who gets what. Adds up to the budget exactly.
        granted: BTreeMap<MemberId, Amount>,
    },
}

impl Grants {
    /// Divides a budget (0: no limit) by what each has earned: `earned * budget / total`, rounded down. What rounding
    /// leaves over goes out in single micro-points, to the largest shares first, and among equals by name.
    pub fn share(budget: Amount, mut earned: Vec<(MemberId, Amount)>) -> Grants {
        earned.retain(|(_, amount)| *amount > Amount::ZERO);
        let total: i128 = earned.iter().map(|(_, amount)| i128::from(amount.0)).sum();
        let limit = i128::from(budget.0);
        if limit <= 0 || total <= limit {
            return Grants::Whole;
        }
        earned.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
        // Two 64-bit factors: the product fits, and the quotient is less than what was earned.
        let floor = |amount: Amount| i128::from(amount.0) * limit / total;
        let mut left = limit - earned.iter().map(|(_, amount)| floor(*amount)).sum::<i128>();
        let share = |(member, amount): (MemberId, Amount)| {
            let extra = left.min(1);
            left -= extra;
            let granted = i64::try_from(floor(amount) + extra).expect("a share of a 64-bit amount");
            (member, Amount(granted))
        };
        let granted = earned.into_iter().map(share).collect();
        Grants::Shared { total, granted }
    }

    /// What a member gets of what it has earned.
    pub fn of(&self, member: &MemberId, earned: Amount) -> Amount {
        match self {
            Grants::Whole => earned,
            Grants::Shared { granted, .. } => granted.get(member).copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(budget: i64, earned: &[(&str, i64)]) -> Vec<i64> {
        let id = |name: &str| name.parse::<MemberId>().expect("a name");
        let list = earned.iter().map(|(name, amount)| (id(name), Amount(*amount))).collect();
        let grants = Grants::share(Amount(budget), list);
        earned.iter().map(|(name, amount)| grants.of(&id(name), Amount(*amount)).0).collect()
    }

    /// Worked out by hand.
    #[test]
    fn a_budget_is_shared_to_the_last_micro_point() {
        assert_eq!(shares(0, &[("a", 7), ("b", 9)]), [7, 9], "no limit");
        assert_eq!(shares(16, &[("a", 7), ("b", 9)]), [7, 9], "just enough");
        // 7 * 15 / 16 = 6, 9 * 15 / 16 = 8, 1 left: to the larger share.
        assert_eq!(shares(15, &[("a", 7), ("b", 9)]), [6, 9]);
        // 10 / 3 = 3 each, 1 left: equal shares, so by name.
        assert_eq!(shares(10, &[("c", 10), ("b", 10), ("a", 10)]), [3, 3, 4]);
        assert_eq!(shares(1, &[("a", 5), ("b", 6), ("c", 0)]), [0, 1, 0]);
        let (max, half) = (i64::MAX, i64::MAX / 2);
        assert_eq!(shares(max, &[("a", max), ("b", max)]), [half + 1, half]);
    }
}
