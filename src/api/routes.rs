//! The table of routes: what the router is made of, and what `/openapi.json` says.
//!
//! To add a route, add a row here, and a recorded request to `tests/contract/v1/`; nothing else has to know.

use serde_json::json;

use super::openapi::schemas::{count, duration, integer, named, object, page, text, time};
use super::openapi::{self, About, Route};
use super::problem::Code;
use super::{
    agents, dashboard, doctor, events, history, kv, kv_watch, members, money, nodes, operations, policy,
    profile, sessions, snapshot, verify,
};

/// All routes.
pub fn table() -> Vec<Route> {
    let mut routes = pages();
    routes.extend(local());
    routes.extend(dictionary());
    routes.extend(client_sessions());
    routes.extend(fleet());
    routes.extend(ledger());
    routes
}

/// The dashboard, for people: from local state, and without a promise about what stands on the pages.
fn pages() -> Vec<Route> {
    let html = |id, summary| About::new(id, summary).gives_as(200, "text/html", None).fails(&[Code::Damaged]);
    let file = |id, media| About::new(id, "A file of the dashboard.").gives_as(200, media, None);
    vec![
        Route::at("/").get(
            dashboard::overview::overview,
            html("index", "Dashboard: whether the cluster works, and how everybody does."),
        ),
        Route::at("/elections").get(
            dashboard::elections::elections,
            html("elections_page", "Dashboard: who led when, why that changed, who voted.")
                .query("to", text(), "The right edge: milliseconds since 1970, or RFC 3339. Without it: now.")
                .query("span", text(), "How much time is shown: 1m, 5m, 15m, 1h, 6h, 24h, 7d.")
                .query("term", count(), "The election that is shown close up; without it the newest.")
                .fails(&[Code::NotFound]),
        ),
        Route::at("/members").get(
            dashboard::members::members,
            html("members_page", "Dashboard: the members by name.").query(
                "after",
                text(),
                "Only names after this one.",
            ),
        ),
        Route::at("/members/{id}").get(
            dashboard::member::member,
            html("member_page", "Dashboard: one member, its evidence and its payments.")
                .path("id", text(), "The name of the member.")
                .query("before", count(), "Only intervals before this one.")
                .fails(&[Code::NotFound]),
        ),
        Route::at("/ledger").get(
            dashboard::ledger::ledger,
            html("ledger_page", "Dashboard: sums, checks, movements, accounts and claims.")
                .query("before", count(), "Only movements before this one.")
                .query("after", text(), "Only accounts after this name."),
        ),
        Route::at("/intervals").get(
            dashboard::intervals::intervals,
            html("intervals_page", "Dashboard: verdicts, and whose reports counted.").query(
                "before",
                count(),
                "Only intervals before this one.",
            ),
        ),
        Route::at("/intervals/{id}").get(
            dashboard::intervals::interval,
            html("interval_page", "Dashboard: how everybody was judged in an interval.")
                .path("id", count(), "The interval.")
                .query("after", text(), "Only names after this one.")
                .fails(&[Code::NotFound]),
        ),
        Route::at("/intervals/{id}/members/{member}").get(
            dashboard::payment::payment,
            html("payment_page", "Dashboard: why a member was paid what it was paid.")
                .path("id", count(), "The interval.")
                .path("member", text(), "The name of the member.")
                .fails(&[Code::NotFound]),
        ),
        Route::at("/node").get(
            dashboard::node::node,
            html("node_page", "Dashboard: this node, its log, its disk, and how it sees the others."),
        ),
        Route::at("/live").get(
            dashboard::live::live,
            About::new("live", "Tells an open page of the dashboard when to look again.")
                .query("follow", json!({ "type": "boolean", "default": true }), "With false: one word.")
                .gives_as(200, "text/event-stream", None)
                .fails(&[Code::Overloaded]),
        ),
        Route::at("/assets/dashboard.css").get(dashboard::assets::style, file("style", "text/css")),
        Route::at("/assets/dashboard.js").get(dashboard::assets::script, file("script", "text/javascript")),
        Route::at("/assets/icon.svg").get(dashboard::assets::icon, file("icon", "image/svg+xml")),
    ]
}

/// Answered from local state: none needs a quorum.
fn local() -> Vec<Route> {
    let words = |about: About| about.gives_as(200, "text/plain", None);
    vec![
        Route::at("/livez").get(
            operations::livez,
            words(About::new("livez", "200 while the node's driver runs.")).gives_as(503, "text/plain", None),
        ),
        Route::at("/readyz").get(
            operations::readyz,
            words(About::new("readyz", "200 when the node can take requests."))
                .query("verbose", json!({ "type": "string" }), "Every check, not only those that fail.")
                .gives_as(503, "text/plain", None),
        ),
        Route::at("/metrics").get(
            operations::metrics,
            words(About::new("metrics", "Metrics in the text format of Prometheus.")),
        ),
        Route::at("/openapi.json").get(
            openapi::serve,
            About::new("openapi", "This document.").gives(object([
                ("openapi", text()),
                ("info", json!({})),
                ("paths", json!({})),
                ("components", json!({})),
            ])),
        ),
        Route::at("/docs").get(
            openapi::page::serve,
            About::new("docs", "This document, for people.").gives_as(200, "text/html", None),
        ),
        Route::at("/v1/status").get(
            operations::status,
            About::new("status", "What this node knows of itself and of the cluster.").gives(named("Status")),
        ),
        Route::at("/v1/doctor").get(
            doctor::report,
            About::new("doctor", "What this node can tell of its own health and of its connections.")
                .gives(named("SelfReport")),
        ),
        Route::at("/v1/profile").get(
            profile::profile,
            About::new("profile", "What the threads of this node did for a while.")
                .query("span", duration(), "For how long to look, up to 1m.")
                .gives(named("Profile"))
                .fails(&[Code::NotFound]),
        ),
        Route::at("/v1/events").get(
            events::stream,
            About::new("events", "What happened on this node, as server-sent events.")
                .query("type", text(), "Only events of this kind.")
                .query("follow", json!({ "type": "boolean", "default": true }), "With false: only the past.")
                .query("after", count(), "Only events after this number.")
                .header("Last-Event-ID", count(), "The same, as browsers say it.")
                .gives_as(200, "text/event-stream", None),
        ),
    ]
}

/// The shared dictionary, and the replicated addition.
fn dictionary() -> Vec<Route> {
    let key = |about: About| about.path("key", text(), "The key; its slashes may stand as they are.");
    let wait = |about: About, what: &str| about.query("wait", duration(), what);
    vec![
        Route::at("/v1/kv").get(
            kv_watch::list_or_watch,
            wait(
                About::new("list_keys", "The keys in byte order; with `wait`, what changes below a prefix.")
                    .query("prefix", text(), "Only keys that begin so.")
                    .page(text())
                    .read(),
                "Long poll: `after` is then a revision, and the answer comes once something below the prefix is newer, \
                 or its number is not `keys`, or the time is over (304).",
            )
            .query("keys", count(), "With `wait`: how many keys the asker knows below the prefix.")
            .gives(named("Listing"))
            .gives_as(304, "", None)
            .fails(&[Code::TooLarge]),
        ),
        Route::at(kv::PREFIX).refuses(kv::no_key),
        Route::at(kv::ROUTE)
            .get(
                kv::get_key,
                wait(
                    key(About::new("get_key", "The value of a key."))
                        .query("after", count(), "Only a revision after this one.")
                        .read(),
                    "Long poll: how long to wait for a revision after `after`; then 304.",
                )
                .header("If-None-Match", text(), "The revision that is known: 304 if it is still that.")
                .gives(named("Entry"))
                .gives_as(304, "", None)
                .fails(&[Code::NotFound]),
            )
            .put(
                kv::put_key,
                key(About::new("put_key", "Sets a key; the body is any JSON value."))
                    .conditional()
                    .write()
                    .body(json!({}))
                    .gives(named("Written")),
            )
            .delete(
                kv::delete_key,
                key(About::new("delete_key", "Removes a key."))
                    .conditional()
                    .write()
                    .gives(named("Written"))
                    .fails(&[Code::NotFound]),
            ),
        Route::at("/v1/kv:batch").post(
            kv::batch,
            About::new("batch", "Up to 1 000 puts and deletes, all or nothing, under one revision.")
                .write()
                .body(named("Batch"))
                .gives(named("Written")),
        ),
        Route::at("/v1/add").post(
            kv::add,
            About::new("add", "Adds two integers through the replicated log.")
                .write()
                .body(object([("a", integer()), ("b", integer())]))
                .gives(named("Sum")),
        ),
    ]
}

fn client_sessions() -> Vec<Route> {
    let id = |about: About| about.path("id", count(), "The session.");
    vec![
        Route::at("/v1/sessions").post(
            sessions::open,
            About::new("open_session", "Opens a session, within which every write has a number.")
                .write()
                .gives(named("Session")),
        ),
        Route::at("/v1/sessions/{id}")
            .post(
                sessions::keep_alive,
                id(About::new("keep_session", "An idle session begins its time anew."))
                    .write()
                    .gives(named("Session")),
            )
            .delete(
                sessions::close,
                id(About::new(
                    "close_session",
                    "Closes a session; what of it is still on its way is refused.",
                ))
                .write()
                .gives(named("Session")),
            ),
    ]
}

/// What an agent hears that enrols.
fn enrolled() -> serde_json::Value {
    object([
        ("id", text()),
        ("status", text()),
        ("fingerprint", text()),
        ("endpoints", json!({ "type": "array", "items": { "type": "string" } })),
    ])
}

/// The members of the fleet, the super-nodes, and who leads.
fn fleet() -> Vec<Route> {
    let id = |about: About| about.path("id", text(), "The name of the member.");
    let action = |name, summary| {
        id(About::new(name, summary)).write().gives(named("Changed")).fails(&[Code::NotFound])
    };
    vec![
        Route::at("/v1/members")
            .get(
                members::list,
                About::new("list_members", "The members by name.")
                    .query("member", text(), "Only this one.")
                    .page(text())
                    .read()
                    .gives(page(named("Member"), text())),
            )
            .post(
                members::join,
                About::new("join_member", "An agent joins or moves; a super-node joins as a learner.")
                    .write()
                    .body(named("Join"))
                    .gives(named("Changed"))
                    .fails(&[Code::NotFound]),
            ),
        Route::at("/v1/members:enrol").post(
            agents::enrol,
            About::new(
                "enrol_agent",
                "An agent wants to be a member: 200, it is; 202, it waits for approval.",
            )
            .write()
            .body(object([
                ("id", text()),
                ("address", text()),
                ("key", json!({ "type": "string", "pattern": "^[0-9a-fA-F]{64}$" })),
                ("version", text()),
                ("token?", json!({ "type": ["string", "null"] })),
            ]))
            .gives(enrolled())
            .gives_as(202, "application/json", Some(enrolled()))
            .fails(&[Code::Unauthorized, Code::Forbidden]),
        ),
        Route::at("/v1/members:waiting").get(
            agents::waiting,
            About::new("list_waiting_agents", "The agents that wait for approval, by name.").read().gives(
                page(
                    object([("id", text()), ("address", text()), ("fingerprint", text()), ("since", time())]),
                    text(),
                ),
            ),
        ),
        Route::at("/v1/members/{id}")
            .get(
                members::show,
                id(About::new("show_member", "One member."))
                    .read()
                    .gives(named("Member"))
                    .fails(&[Code::NotFound]),
            )
            .delete(
                members::leave,
                id(About::new("remove_member", "The member leaves; its account stays."))
                    .write()
                    .gives(named("Changed"))
                    .fails(&[Code::NotFound]),
            )
            .actions(
                nodes::act,
                [
                    (
                        "/v1/members/{id}:promote",
                        action("promote_member", "A learner that has caught up becomes a voter."),
                    ),
                    ("/v1/members/{id}:demote", action("demote_member", "A voter becomes a learner.")),
                    (
                        "/v1/members/{id}:maintain",
                        id(About::new("maintain_member", "Announces maintenance: excused, and unpaid."))
                            .write()
                            .body(named("Maintenance"))
                            .gives(named("Announced"))
                            .fails(&[Code::NotFound]),
                    ),
                    (
                        "/v1/members/{id}:approve",
                        action("approve_agent", "Lets an agent in that waits.")
                            .may_have_body(object([("fingerprint?", json!({ "type": ["string", "null"] }))])),
                    ),
                    ("/v1/members/{id}:refuse", action("refuse_agent", "Sends an agent away that waits.")),
                ],
            ),
        Route::at("/v1/leader:transfer").post(
            nodes::transfer,
            About::new("transfer_leader", "Hands the leadership over; answers when another node leads.")
                .write()
                .may_have_body(named("Transfer"))
                .gives(named("Transferred")),
        ),
        Route::at("/v1/balances").get(
            members::balances,
            About::new("list_balances", "The accounts by name.")
                .query("member", text(), "Only this one.")
                .query("top", count(), "Instead: so many with the highest balances, highest first.")
                .page(text())
                .read()
                .gives(page(named("Balance"), text())),
        ),
    ]
}

/// What the ledger holds; all lists are newest last.
fn ledger() -> Vec<Route> {
    let span = |about: About| {
        about.query("from", time(), "Not before this time.").query("to", time(), "Before this time.")
    };
    vec![
        Route::at("/v1/policy")
            .get(
                policy::show,
                About::new("show_policy", "The policy of the open interval, and the revisions to come.")
                    .query("revision", count(), "This revision instead.")
                    .read()
                    .gives(named("Policy"))
                    .fails(&[Code::NotFound]),
            )
            .put(
                policy::set,
                About::new("set_policy", "The next revision; what is left out stays as in the newest.")
                    .write()
                    .may_have_body(named("PolicyChange"))
                    .gives(named("Policy"))
                    .fails(&[Code::NotFound]),
            ),
        Route::at("/v1/policy:simulate").post(
            policy::simulate,
            About::new("simulate_policy", "Judges recorded intervals again; changes nothing.")
                .read()
                .may_have_body(named("PolicyChange"))
                .gives(named("Rehearsal"))
                .fails(&[Code::NotFound]),
        ),
        Route::at("/v1/claims")
            .get(
                money::claims,
                About::new("show_claims", "The number of a member's last claim, and its receipt.")
                    .query("member", text(), "Whose.")
                    .read()
                    .gives(named("Claims"))
                    .fails(&[Code::NotFound]),
            )
            .post(
                money::claim,
                About::new(
                    "claim",
                    "Pays part of a balance out; the last claim again gets its receipt again.",
                )
                .write()
                .body(named("Claim"))
                .gives(named("Receipt"))
                .fails(&[Code::NotFound, Code::InsufficientFunds, Code::Suspended]),
            ),
        Route::at("/v1/adjustments").post(
            money::adjust,
            About::new("adjust", "An operator moves a balance.")
                .write()
                .body(named("Adjustment"))
                .gives(named("Adjusted"))
                .fails(&[Code::NotFound]),
        ),
        Route::at("/v1/rewards").get(
            history::rewards,
            span(About::new("list_rewards", "Rewards, penalties and all other movements."))
                .query("member", text(), "Only of this member.")
                .query(
                    "kind",
                    text(),
                    "Only of this kind: reward, penalty, claim, claim_penalty, adjustment.",
                )
                .page(count())
                .read()
                .gives(page(named("Movement"), count())),
        ),
        Route::at("/v1/intervals").get(
            history::intervals,
            span(About::new("list_intervals", "The settled intervals."))
                .query("member", text(), "Only those in which this member was judged.")
                .query("verdict", text(), "Only with this verdict: settled, void, correlated.")
                .page(count())
                .read()
                .gives(page(named("Interval"), count())),
        ),
        Route::at("/v1/intervals/{id}").get(
            history::interval,
            About::new("show_interval", "One settled interval.")
                .path("id", count(), "The interval.")
                .read()
                .gives(named("Interval"))
                .fails(&[Code::NotFound]),
        ),
        Route::at("/v1/intervals/{id}/members/{member}").get(
            history::explain,
            About::new("explain_payment", "The pings, who saw them, the formula and the result.")
                .path("id", count(), "The interval.")
                .path("member", text(), "The name of the member.")
                .read()
                .gives(named("Explanation"))
                .fails(&[Code::NotFound]),
        ),
        Route::at("/v1/elections").get(
            history::elections,
            span(About::new("list_elections", "The elections that were won."))
                .query("member", text(), "Only those that this node won.")
                .page(count())
                .read()
                .gives(page(named("Election"), count())),
        ),
        Route::at("/v1/elections/{term}").get(
            history::election,
            About::new("show_election", "One election.")
                .path("term", count(), "The term that it began.")
                .read()
                .gives(named("Election"))
                .fails(&[Code::NotFound]),
        ),
        Route::at("/v1/ledger/verify").get(
            verify::verify_ledger,
            About::new("verify_ledger", "Recomputes hashes, sums and settlements of what this node holds.")
                .query("from", text(), "oldest, or newest: the record to begin with.")
                .query("intervals", count(), "With from=newest: end after so many.")
                .query(
                    "progress",
                    json!({ "type": "boolean", "default": false }),
                    "One JSON object per line: how far it has come, and the report last.",
                )
                .query(
                    "mongodb",
                    json!({ "type": "boolean", "default": false }),
                    "Compares with MongoDB, too.",
                )
                .gives(named("Verification"))
                .fails(&[Code::Timeout, Code::Damaged]),
        ),
        Route::at("/v1/recoveries").get(
            snapshot::recoveries,
            About::new("list_recoveries", "Forced new clusters and restored snapshots, oldest first.")
                .page(count())
                .read()
                .gives(page(named("Recovery"), count())),
        ),
        Route::at("/v1/snapshot").get(
            snapshot::save,
            About::new("snapshot", "The whole state as a file that can be restored; see docs/storage.md.")
                .read()
                .gives_as(200, "application/vnd.super-node.snapshot", None)
                .fails(&[Code::Overloaded, Code::Damaged]),
        ),
    ]
}
