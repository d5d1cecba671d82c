//! `GET /ledger?before=&after=`: the sums, whether they add up, the chain, the accounts and what was moved.

use askama::Template;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::ledger::backwards::verify_from_newest;
use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query::{self, RewardFilter};
use crate::ledger::records::{Member, Totals};
use crate::ledger::retention;
use crate::types::MemberId;

use super::super::ApiState;
use super::super::extract::Params;
use super::super::problem::Problem;
use super::member::Moved;
use super::{Place, Shell, page, text};

/// Movements on a page.
const MOVEMENTS: u64 = 50;
/// Accounts on a page.
const ACCOUNTS: usize = 50;
/// Intervals that are computed again for the page; the whole chain is for `/v1/ledger/verify`.
const INTERVALS_CHECKED: u64 = 5;
/// And fewer, but one at least, where those would be more movements than this.
const RECORDS_CHECKED: u64 = 20_000;
/// Members that are looked at in one go.
const MEMBERS_AT_ONCE: usize = 1_024;

/// Whether the ledger of this node is sound, as far as a page can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soundness {
    /// Up to which movement and interval it was looked at.
    at: (u64, u64),
    /// The sum of all balances, in micro-points.
    balances: i128,
    /// Whether balances + claimed = minted - burned.
    conserved: bool,
    /// What the newest intervals say when they are computed again.
    chain: Result<(u64, u64), String>,
}

/// Looks at all balances, and at the newest intervals again. Bounded by the number of members.
fn soundness(reader: &dyn Reader, totals: &Totals) -> Result<Soundness, KeyspaceError> {
    let settled = query::interval_state(reader)?.map_or(0, |state| state.next_settle.0);
    let (mut balances, mut after) = (0_i128, None::<MemberId>);
    loop {
        let members = query::members(reader, after.as_ref(), MEMBERS_AT_ONCE)?;
        let Some(last) = members.last() else { break };
        after = Some(last.id.clone());
        balances += members.iter().map(|member| i128::from(member.balance.0)).sum::<i128>();
    }
    let affordable = RECORDS_CHECKED / query::member_count(reader)?.max(1);
    let report = verify_from_newest(reader, Some(affordable.clamp(1, INTERVALS_CHECKED)), &mut |_, _| {});
    Ok(Soundness {
        at: (totals.records, settled),
        balances,
        conserved: conserved(balances, totals),
        chain: if report.ok {
            Ok((report.intervals, report.records))
        } else {
            Err(report.problems.first().cloned().unwrap_or_else(|| "it is not sound".to_string()))
        },
    })
}

/// Conservation: balances + claimed = minted - burned.
fn conserved(balances: i128, totals: &Totals) -> bool {
    let [minted, burned, claimed] =
        [totals.minted, totals.burned, totals.claimed].map(|sum| i128::from(sum.0));
    balances + claimed == minted - burned
}

/// A sum with its name.
pub struct Sum {
    name: &'static str,
    value: String,
}

/// An account in the table.
pub struct Account {
    id: String,
    status: &'static str,
    balance: String,
    strikes: u32,
    as_of: u64,
    claim: String,
}

#[derive(Template)]
#[template(path = "ledger.html")]
struct Ledger {
    shell: Shell,
    sums: Vec<Sum>,
    conserved: bool,
    chain_ok: bool,
    chain: String,
    records: String,
    head: String,
    forgotten: String,
    accounts: Vec<Account>,
    next_account: Option<String>,
    first_account: bool,
    movements: Vec<Moved>,
    older: Option<u64>,
    newest: bool,
}

fn micro(sum: i128) -> String {
    let magnitude = sum.unsigned_abs();
    let whole = u64::try_from(magnitude / 1_000_000).unwrap_or(u64::MAX);
    let sign = if sum < 0 { "\u{2212}" } else { "" };
    format!("{sign}{}.{:06}", text::count(whole), magnitude % 1_000_000)
}

fn account(reader: &dyn Reader, member: Member) -> Result<Account, KeyspaceError> {
    let claims = query::claims(reader, &member.id)?;
    Ok(Account {
        claim: claims.receipt.map_or(String::new(), |receipt| {
            format!(
                "no. {}: {} on {} UTC",
                receipt.seq,
                text::points(receipt.amount),
                text::stamp(receipt.at)
            )
        }),
        status: member.status.as_str(),
        balance: text::points(member.balance),
        strikes: member.strikes,
        as_of: member.as_of,
        id: member.id.to_string(),
    })
}

/// `GET /ledger?before=&after=`: movements before a number, accounts after a name.
pub async fn ledger(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    let params = Params::parse(&uri, &["before", "after"])?;
    let before = params.parsed::<u64>("before")?;
    let after = params.parsed::<MemberId>("after")?;
    let first_account = after.is_none();
    let cache = state.soundness();
    let (totals, sound, accounts, more, movements, forgotten) = state
        .look(move |reader| {
            let totals = query::totals(reader)?;
            let settled = query::interval_state(reader)?.map_or(0, |state| state.next_settle.0);
            // The same answer until something is added: several pages may ask for it every second.
            let known = cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            let sound = match known.filter(|known| known.at == (totals.records, settled)) {
                Some(known) => known,
                None => {
                    let found = soundness(reader, &totals)?;
                    *cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(found.clone());
                    found
                }
            };
            let mut members = query::members(reader, after.as_ref(), ACCOUNTS + 1)?;
            let more = members.len() > ACCOUNTS;
            members.truncate(ACCOUNTS);
            let accounts: Result<Vec<Account>, KeyspaceError> =
                members.into_iter().map(|member| account(reader, member)).collect();
            let forgotten = retention::trimmed(reader)?.totals.records;
            let end =
                before.map_or(totals.records.saturating_add(1), |before| before.min(totals.records + 1));
            let begin = end.saturating_sub(MOVEMENTS + 1).max(forgotten);
            let limit = usize::try_from(end.saturating_sub(begin + 1)).unwrap_or(0);
            let filter = RewardFilter { after: begin, limit, ..RewardFilter::default() };
            Ok((totals, sound, accounts?, more, query::rewards(reader, &filter)?, forgotten))
        })
        .await?;
    let sum = |name, value| Sum { name, value: micro(value) };
    page(&Ledger {
        shell: Shell::new(&state, Place::Ledger, "ledger"),
        sums: vec![
            sum("Minted", i128::from(totals.minted.0)),
            sum("Burned", i128::from(totals.burned.0)),
            sum("Claimed", i128::from(totals.claimed.0)),
            sum("Balances", sound.balances),
        ],
        conserved: sound.conserved,
        chain_ok: sound.chain.is_ok(),
        chain: match &sound.chain {
            Ok((intervals, records)) => {
                format!(
                    "The newest {intervals} intervals and {records} movements were computed again: equal to the record."
                )
            }
            Err(problem) => problem.clone(),
        },
        records: text::count(totals.records),
        head: totals.head_hash.to_hex(),
        forgotten: if forgotten == 0 {
            String::new()
        } else {
            format!("Movements up to {} are forgotten here (storage.history).", text::count(forgotten))
        },
        next_account: accounts.last().filter(|_| more).map(|account| account.id.clone()),
        accounts,
        first_account,
        older: movements.first().map(|first| first.seq).filter(|first| *first > forgotten + 1),
        movements: movements.into_iter().rev().map(Moved::from).collect(),
        newest: before.is_none(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Amount;

    #[test]
    fn sums_add_up_or_do_not() {
        let totals =
            Totals { minted: Amount(100), burned: Amount(20), claimed: Amount(30), ..Totals::default() };
        for (balances, whole) in [(50, true), (49, false), (51, false)] {
            assert_eq!(conserved(balances, &totals), whole, "{balances}");
        }
        assert_eq!(micro(-1_500_000), "\u{2212}1.500000");
        assert_eq!(micro(12_345_000_001), "12\u{a0}345.000001");
    }
}
