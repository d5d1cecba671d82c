//! The dashboard in a real browser, served by real nodes: what it shows of elections while they happen, and that it is
//! usable in every way that was promised.
//!
//! With `SUPER_NODE_SCREENSHOTS=docs/images` it also makes the pictures of the README, for which it takes minutes.

#[path = "support/browser.rs"]
mod browser;
#[path = "support/cluster.rs"]
mod cluster;

use std::time::Duration;

use browser::Browser;
use cluster::{Cluster, Setup};
use serde_json::{Value, json};

/// All pages, given an interval in which worker-1 was judged.
fn pages(interval: u64) -> [String; 9] {
    [
        "/".to_string(),
        "/elections".to_string(),
        "/members".to_string(),
        "/members/worker-1".to_string(),
        "/ledger".to_string(),
        "/intervals".to_string(),
        format!("/intervals/{interval}"),
        format!("/intervals/{interval}/members/worker-1"),
        "/node".to_string(),
    ]
}

/// Tab, as WebDriver writes it.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// Writes until it is dropped, about twenty times a second, to whichever node takes it.
struct Load(tokio::task::JoinHandle<()>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Load {
    fn on(cluster: &Cluster) -> Load {
        let urls: Vec<String> = cluster.nodes.iter().map(cluster::Node::url).collect();
        let http = cluster.http.clone();
        Load(tokio::spawn(async move {
            for number in 0_u64.. {
                let url = format!("{}/v1/kv/load-{}", urls[number as usize % urls.len()], number % 16);
                // Some node may be dead, and others may have no leader: the next write is as good.
                let _written_or_not = http.put(&url).json(&number).send().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }))
    }
}

/// A cluster of three with two agents, `intervals` settled intervals at least, and one in which worker-1 was judged.
async fn judged(intervals: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::start(&Setup::nodes(3));
    cluster.leader().await;
    cluster.start_agent("worker-1");
    cluster.start_agent("worker-2");
    let judged = cluster
        .wait_for("the agents are judged", async || {
            let page = cluster.try_get(0, "/v1/intervals?level=stale&member=worker-1&limit=1").await?;
            page["items"][0]["id"].as_u64()
        })
        .await;
    let settled = async || cluster.get(0, "/v1/status").await["interval"]["next_settle"].as_u64();
    while settled().await < Some(intervals) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    (cluster, judged)
}

/// The running node that does not lead and comes first.
async fn survivor(cluster: &Cluster) -> (usize, usize, u64) {
    let (leader, term) = cluster.leader().await;
    let all = 0..cluster.nodes.len();
    let other = all.into_iter().find(|at| *at != leader && cluster.nodes[*at].is_running());
    (other.expect("another node"), leader, term)
}

/// A word in quotes, for a script.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

async fn picture(browser: &Browser, name: &str) {
    let Some(folder) = std::env::var_os("SUPER_NODE_SCREENSHOTS") else { return };
    browser.hide_scrollbars().await;
    std::fs::write(std::path::Path::new(&folder).join(name), browser.screenshot().await).expect("a picture");
}

#[tokio::test]
async fn an_open_page_shows_elections_as_they_happen_and_the_loss_of_the_quorum() {
    let pictures = std::env::var_os("SUPER_NODE_SCREENSHOTS").is_some();
    let (mut cluster, interval) = judged(if pictures { 45 } else { 0 }).await;
    let load = Load::on(&cluster);
    let browser = Browser::start().await;
    if pictures {
        cluster.kill_agent("worker-2");
        tokio::time::sleep(Duration::from_secs(11)).await;
        cluster.start_agent("worker-2");
        tokio::time::sleep(Duration::from_secs(14)).await;
    }

    // The page of elections, open on a node that survives.
    let (at, leader, term) = survivor(&cluster).await;
    let dead = cluster.nodes[leader].id.clone();
    browser.open(&format!("{}/elections?span=1m", cluster.nodes[at].url())).await;
    browser
        .until("the leader is named", &format!("who.innerText.includes('leader ' + {})", quoted(&dead)))
        .await;
    browser.run("window.marker = 'as it was'").await;
    cluster.kill(leader);
    let (next, term) = cluster.leader_after(term).await;
    let winner = cluster.nodes[next].id.clone();
    let listed = format!("list.querySelector('tbody th').innerText.trim() == '{term}'");
    browser.until("the election is listed", &listed).await;
    let gap = "Array.from(document.querySelectorAll('#lanes .gap .length')).pop()";
    browser.until("the gap is drawn", &format!("{gap} && /^[\\d.]+ m?s$/.test({gap}.textContent)")).await;
    let drawn = browser.run("return document.querySelector('#lanes svg').textContent").await;
    let drawn = drawn.as_str().expect("text");
    assert!(
        drawn.contains(&format!("{dead} \u{2192} {winner}: ")),
        "who led before, and the reason: {drawn}"
    );
    assert!(drawn.contains(&format!("voted for {winner} in term {term}")), "arrows of votes: {drawn}");
    let listed = cluster.get(at, &format!("/v1/elections/{term}")).await;
    let reason = listed["reason"].as_str().expect("a reason").replace('_', " ");
    assert!(browser.text("#list tbody tr").await.contains(&reason), "{reason}");
    browser
        .until(
            "it was seen from close up",
            &format!("/{term}/.test(document.querySelector('#close h2').innerText)"),
        )
        .await;
    assert_eq!(
        browser.run("return window.marker").await,
        json!("as it was"),
        "the page was not loaded again"
    );

    // Paused, it stands still; scrubbing goes back in time.
    browser.run("document.getElementById('pause').click()").await;
    assert_eq!(browser.text("#connection").await, "paused");
    browser
        .run("const slider = document.querySelector('input[type=range]'); slider.value = slider.min; slider.dispatchEvent(new Event('input', {bubbles: true}))")
        .await;
    browser.until("the past is shown", "lanes.innerText.includes('standing still')").await;
    assert_eq!(browser.run("return window.marker").await, json!("as it was"));

    // The overview, with everybody back.
    cluster.start_node(leader);
    cluster.leader().await;
    let (at, leader, term) = survivor(&cluster).await;
    if pictures {
        tokio::time::sleep(Duration::from_secs(15)).await;
        browser.resize(1280, 900).await;
        browser.open(&format!("{}/", cluster.nodes[leader].url())).await;
        browser.until("it follows", "document.querySelector('#connection').innerText == 'live'").await;
        picture(&browser, "dashboard-overview.png").await;
        browser.open(&format!("{}/elections?span=1m", cluster.nodes[at].url())).await;
        picture(&browser, "dashboard-elections.png").await;
    }
    let dead = cluster.nodes[leader].id.clone();
    browser.open(&format!("{}/", cluster.nodes[at].url())).await;
    browser.until("the leader is shown", &format!("figures.innerText.includes({})", quoted(&dead))).await;
    browser.run("window.marker = 'as it was'").await;
    cluster.kill(leader);
    let (next, _) = cluster.leader_after(term).await;
    let winner = quoted(&cluster.nodes[next].id);
    let value = "document.querySelector('#figures .value').innerText.trim()";
    browser.until("the new leader is shown", &format!("{value} == {winner}")).await;
    let row = format!(
        "Array.from(document.querySelectorAll('.hearts tr')).find(row => row.innerText.includes({}))",
        quoted(&dead)
    );
    browser.until("the dead node is down", &format!("{row}.innerText.includes('down')")).await;

    // Then there is nobody left to agree with.
    let rest: Vec<usize> =
        (0..3).filter(|other| *other != at && cluster.nodes[*other].is_running()).collect();
    cluster.kill_all(&rest);
    browser.until("the alarm", "alarms.innerText.includes('No quorum: 1 of 3 voters answer')").await;
    browser.until("nobody leads", &format!("{value} == 'nobody'")).await;
    assert_eq!(
        browser.run("return window.marker").await,
        json!("as it was"),
        "the page was not loaded again"
    );
    drop(load);
    for path in pages(interval) {
        browser.open(&format!("{}{path}", cluster.nodes[at].url())).await;
        let alarm = browser.text("#alarms").await;
        assert!(alarm.contains("No quorum"), "{path} answers without a quorum: {alarm}");
        assert_eq!(
            browser.run("return document.querySelectorAll('main .card').length > 0").await,
            json!(true),
            "{path}"
        );
    }
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[tokio::test]
async fn every_page_fits_a_phone_has_a_dark_side_and_is_reached_by_keyboard() {
    let (cluster, interval) = judged(0).await;
    let reason = "<script>window.harm = 1</script><img src=x onerror='window.harm = 1'>";
    let moved =
        cluster.cli(&["ledger", "adjust", "worker-1", "1.5", "--reason", reason, "--operator", "kim"]);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    let browser = Browser::start().await;
    let url = cluster.nodes[0].url();
    for path in pages(interval) {
        let place = format!("{url}{path}");
        for width in [360, 1280, 3840] {
            browser.resize(width, 800).await;
            browser.open(&place).await;
            let wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]").await;
            assert!(wide[0].as_u64() <= wide[1].as_u64(), "{path} is {wide} wide in a window of {width}");
        }
        let mut grounds = Vec::new();
        for scheme in ["light", "dark"] {
            browser.prefers(scheme).await;
            let script = "const style = getComputedStyle(document.documentElement); return [style.backgroundColor, style.color]";
            grounds.push(browser.run(script).await);
        }
        assert!(grounds[0][0] != grounds[1][0] && grounds[0][1] != grounds[1][1], "{path}: {grounds:?}");
        assert_eq!(browser.run("return document.querySelectorAll('h1').length").await, json!(1), "{path}");
        assert_ne!(browser.text("h1").await, "There is nothing here", "{path}");
        let unnamed = browser
            .run("return document.querySelectorAll('th:not([scope]), table:not(:has(caption))').length");
        assert_eq!(unnamed.await, json!(0), "{path}: cells without a scope, tables without a caption");
    }

    // The keyboard: the skip link comes first, then the pages.
    browser.resize(1280, 900).await;
    browser.open(&format!("{url}/")).await;
    let mut reached = Vec::new();
    for _ in 0..7 {
        browser.press(TAB).await;
        let href = browser.run("return document.activeElement.getAttribute('href')").await;
        reached.push(href.as_str().unwrap_or("none").to_string());
    }
    assert_eq!(reached, ["#main", "/", "/elections", "/members", "/ledger", "/intervals", "/node"]);
    let outline = browser.run("return getComputedStyle(document.activeElement).outlineStyle").await;
    assert_ne!(outline, json!("none"), "the focus can be seen");
    browser.press(ENTER).await;
    browser.until("a key followed the link", "location.pathname == '/node'").await;
    browser.press(TAB).await;
    browser.press(ENTER).await;
    browser.until("the skip link skips", "document.activeElement.id == 'main'").await;

    // The focus stays where it is while the page is renewed.
    browser.open(&format!("{url}/members")).await;
    let before = "window.asOf = document.querySelector('#as-of time').innerText; \
                  window.link = document.querySelector('#members tbody a'); link.focus(); window.href = link.href";
    browser.run(before).await;
    browser
        .until(
            "the page was renewed",
            "document.querySelector('#as-of time').innerText != asOf && !link.isConnected",
        )
        .await;
    assert_eq!(browser.run("return document.activeElement.href == href").await, json!(true));

    // What people wrote is shown as they wrote it, and does nothing.
    browser.open(&format!("{url}/members/worker-1")).await;
    assert!(browser.text("#movements").await.contains(reason));
    assert_eq!(browser.run("return window.harm").await, Value::Null);
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    let requests = browser.requests().await;
    assert!(requests.iter().any(|asked| asked.ends_with("/live")), "{requests:?}");
    let foreign: Vec<&String> =
        requests.iter().filter(|asked| !asked.starts_with(&format!("{url}/"))).collect();
    assert!(foreign.is_empty(), "nothing leaves the node's own origin: {foreign:?}");
}

/// An answer to somebody with a browser.
async fn asked(request: reqwest::RequestBuilder) -> (u16, reqwest::header::HeaderMap, String) {
    let answer = request.header("accept", "text/html,*/*;q=0.8").send().await.expect("an answer");
    (answer.status().as_u16(), answer.headers().clone(), answer.text().await.expect("text"))
}

#[tokio::test]
async fn with_tokens_a_browser_shows_one_as_its_password_and_can_only_read() {
    const READER: &str = "reader-0123456789abcdef";
    const ADMIN: &str = "admin-0123456789abcdef";
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("reader {READER}\nadmin {ADMIN}\n")).expect("a file");
    let setup = Setup::nodes(1).with("SUPER_NODE_AUTH__TOKENS", &tokens.to_string_lossy());
    let cluster = Cluster::start(&setup);
    let (url, http) = (cluster.nodes[0].url(), &cluster.http);
    cluster.wait_for("the node answers", async || http.get(format!("{url}/livez")).send().await.ok()).await;

    let (status, headers, text) = asked(http.get(&url)).await;
    let challenges: Vec<&str> =
        headers.get_all("www-authenticate").iter().map(|value| value.to_str().expect("ASCII")).collect();
    assert_eq!(status, 401, "{text}");
    assert!(challenges.iter().any(|challenge| challenge.starts_with("Basic realm=")), "{challenges:?}");
    assert!(text.contains("<h1>This node wants a token</h1>") && !text.contains("n1"), "{text}");
    for (name, token, wanted) in [("kim", READER, 200), ("", ADMIN, 200), ("kim", "wrong", 401)] {
        assert_eq!(asked(http.get(&url).basic_auth(name, Some(token))).await.0, wanted, "{token}");
    }
    // A browser sends its password along whoever makes it ask: so that changes nothing.
    let put = http.put(format!("{url}/v1/kv/a")).basic_auth("kim", Some(ADMIN)).json(&1);
    assert_eq!(asked(put).await.0, 401);
    let snapshot = http.get(format!("{url}/v1/snapshot")).basic_auth("kim", Some(ADMIN));
    assert_eq!(asked(snapshot).await.0, 403);

    // In a real one: the page is there, and it follows.
    let browser = Browser::start().await;
    browser.open(&format!("{}/", url.replace("http://", &format!("http://kim:{READER}@")))).await;
    browser.until("it follows", "document.querySelector('#connection').innerText == 'live'").await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[tokio::test]
async fn a_wrong_address_is_answered_with_a_page_that_helps() {
    let cluster = Cluster::start(&Setup::nodes(1));
    cluster.leader().await;
    cluster.wait_for("n1 is a member", async || cluster.try_get(0, "/v1/members/n1").await).await;
    let (url, http) = (cluster.nodes[0].url(), &cluster.http);
    for (path, status, wanted) in [
        ("/nothing", 404, "There is nothing here"),
        ("/members/nobody", 404, "no member &#39;nobody&#39;"),
        ("/members/a%20b", 400, "is not a valid name"),
        ("/intervals/999999", 404, "interval 999999 is not settled here"),
        ("/intervals/x", 400, "is not the number of an interval"),
        ("/intervals/999999/members/n1", 404, "holds no judgement"),
        ("/elections?span=2h", 400, "span=2h is not known"),
        ("/elections?to=%3Cscript%3E", 400, "to=&#60;script&#62; is not usable"),
        ("/elections?term=999", 404, "no election is recorded here for term 999"),
        ("/ledger?before=-1", 400, "before=-1 is not usable"),
        ("/node?x=1", 400, "unknown parameter &#39;x&#39;"),
    ] {
        let (found, headers, text) = asked(http.get(format!("{url}{path}"))).await;
        assert_eq!(found, status, "{path}: {text}");
        assert!(text.contains(wanted), "{path}: {text}");
        assert_eq!(headers["content-type"], "text/html; charset=utf-8", "{path}");
        let policy = headers["content-security-policy"].to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{path}: {policy}");
    }
    // Numbers at the ends of what they can be.
    for path in [
        "/elections?to=9223372036854775807&span=7d",
        "/elections?to=0&span=7d",
        "/ledger?before=0",
        "/ledger?before=18446744073709551615",
        "/intervals?before=0",
        "/intervals?before=18446744073709551615",
        "/members/n1?before=0",
        "/members/n1?before=18446744073709551615",
        "/members?after=zzz",
    ] {
        let (status, _, text) = asked(http.get(format!("{url}{path}"))).await;
        assert_eq!(status, 200, "{path}: {text}");
    }
    // Programs get what programs read.
    let answer = http.get(format!("{url}/nothing")).send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
}
