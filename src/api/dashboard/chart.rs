//! Line charts over time as SVG: where everything is drawn. The template only writes it down.

use askama::Template;

use crate::types::UnixMillis;

use super::text;

/// The drawing, in units of its own; the page scales it.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 160.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 390.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 136.0;

/// To a tenth of a unit: nobody sees more, and the page stays small.
pub fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A mark on an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where.
    pub at: f64,
    /// What it says.
    pub label: String,
}

/// A drawn line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The class that gives it its colour and dash.
    pub class: &'static str,
    /// Its name in the legend.
    pub name: &'static str,
    /// SVG path data; empty when there is nothing to draw.
    pub path: String,
    /// Its newest value, in words.
    pub last: String,
}

/// What a line is made of: times, and values where there are any.
pub struct Series {
    /// See [`Line::class`].
    pub class: &'static str,
    /// See [`Line::name`].
    pub name: &'static str,
    /// In order of time.
    pub points: Vec<(UnixMillis, Option<f64>)>,
}

/// A chart, ready to be written down.
#[derive(Template)]
#[template(path = "chart.html")]
pub struct Chart {
    /// The id of its title, unique on its page.
    pub id: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// The unit of the vertical axis.
    pub unit: &'static str,
    /// For whoever cannot see it.
    pub summary: String,
    lines: Vec<Line>,
    y_ticks: Vec<Tick>,
    x_ticks: Vec<Tick>,
    /// Said instead, when there is nothing to draw.
    nothing: &'static str,
}

/// What a chart is about.
pub struct About {
    /// See [`Chart::id`].
    pub id: &'static str,
    /// See [`Chart::title`].
    pub title: &'static str,
    /// See [`Chart::unit`].
    pub unit: &'static str,
    /// Said when there is nothing to draw.
    pub nothing: &'static str,
}

/// The smallest of 1, 2 and 5 times a power of ten that divides `max` into at most `parts`.
pub fn nice_step(max: f64, parts: u32) -> f64 {
    let raw = (max / f64::from(parts.max(1))).max(1e-6);
    let power = 10_f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| *step >= raw * 0.999)
        .unwrap_or(raw)
}

/// Steps of a time axis, in milliseconds: what clocks are divided by.
const TIME_STEPS_MS: [i64; 21] = [
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000,
    1_800_000, 3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000,
];

/// The round times within a span, at most `parts` of them, with their step in milliseconds.
pub fn time_ticks(from: UnixMillis, to: UnixMillis, parts: i64) -> (Vec<UnixMillis>, i64) {
    let length = to.0.saturating_sub(from.0).max(1);
    let fits = |step: &i64| length / step <= parts;
    let step = TIME_STEPS_MS.into_iter().find(fits).unwrap_or_else(|| {
        // Whole days, as many as it takes.
        86_400_000 * (length / 86_400_000 / parts.max(1) + 1)
    });
    let mut at = from.0.div_euclid(step).saturating_add(1).saturating_mul(step);
    let mut ticks = Vec::new();
    while at <= to.0 && ticks.len() < 64 {
        ticks.push(UnixMillis(at));
        at = at.saturating_add(step);
    }
    (ticks, step)
}

/// How a time is written on an axis with this step.
pub fn time_label(at: UnixMillis, step_ms: i64) -> String {
    match step_ms {
        ..1_000 => text::clock_ms(at)[6..].to_string(),
        1_000..60_000 => text::clock(at),
        60_000..86_400_000 => text::clock(at)[..5].to_string(),
        _ => text::stamp(at)[5..10].to_string(),
    }
}

/// A chart of `series` between two times; the vertical axis begins at zero.
pub fn time_chart(about: About, from: UnixMillis, to: UnixMillis, series: Vec<Series>) -> Chart {
    let values = series.iter().flat_map(|series| series.points.iter().filter_map(|(_, value)| *value));
    let max = values.fold(0.0, f64::max);
    let step = nice_step(if max > 0.0 { max } else { 1.0 }, 4);
    let top = (max / step).ceil().max(1.0) * step;
    let length = (to.0.saturating_sub(from.0)).max(1) as f64;
    let x = |at: UnixMillis| tenth(LEFT + (RIGHT - LEFT) * (at.0.saturating_sub(from.0)) as f64 / length);
    let y = |value: f64| tenth(BOTTOM - (BOTTOM - TOP) * value / top);
    let rows = (top / step).round() as u32;
    let decimals = if step < 0.1 { 2 } else { usize::from(step < 1.0) };
    let y_ticks = (0..=rows).map(|row| {
        let value = f64::from(row) * step;
        Tick { at: y(value), label: format!("{value:.decimals$}") }
    });
    let (times, time_step) = time_ticks(from, to, 5);
    let x_ticks = times.into_iter().map(|at| Tick { at: x(at), label: time_label(at, time_step) });
    // Half a label has no place beyond the edge.
    let x_ticks = x_ticks.filter(|tick| tick.at <= RIGHT - 12.0);
    let lines: Vec<Line> = series
        .into_iter()
        .map(|series| {
            let last = series.points.iter().rev().find_map(|(_, value)| *value);
            let within = series.points.iter().filter(|(at, _)| *at >= from && *at <= to);
            Line {
                class: series.class,
                name: series.name,
                path: path(within.map(|(at, value)| (x(*at), value.map(&y)))),
                last: last.map_or("\u{2013}".to_string(), |value| format!("{value:.2}")),
            }
        })
        .collect();
    let names = lines.iter().map(|line| format!("{}, now {} {}", line.name, line.last, about.unit));
    Chart {
        id: about.id,
        title: about.title,
        unit: about.unit,
        summary: format!(
            "{}, {} to {} UTC: {}",
            about.title,
            text::clock(from),
            text::clock(to),
            names.collect::<Vec<_>>().join("; ")
        ),
        y_ticks: y_ticks.collect(),
        x_ticks: x_ticks.collect(),
        nothing: if lines.iter().all(|line| line.path.is_empty()) { about.nothing } else { "" },
        lines,
    }
}

/// Path data through points; a missing one lifts the pen, and a point without neighbours is a dot.
pub fn path(points: impl Iterator<Item = (f64, Option<f64>)>) -> String {
    let (mut data, mut down) = (String::new(), false);
    for (x, y) in points {
        match y {
            Some(y) if down => data.push_str(&format!("L{x} {y}")),
            Some(y) => data.push_str(&format!("M{x} {y}h.1")),
            None => {}
        }
        down = y.is_some();
    }
    data
}

/// A line without axes, as tall as a line of text; its extremes stand beside it.
#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<svg class="spark" viewBox="0 0 120 24" preserveAspectRatio="none" role="img" aria-label="{{ summary }}"><title>{{ summary }}</title><path class="line-a" d="{{ path }}"/></svg>"#
)]
pub struct Spark {
    path: String,
    summary: String,
}

/// A sparkline of values, oldest first, over `slots` places.
pub fn spark(values: &[Option<f64>], slots: usize, summary: String) -> Spark {
    let max = values.iter().flatten().copied().fold(0.0, f64::max);
    let step = 116.0 / (slots.max(2) - 1) as f64;
    let begin = slots.saturating_sub(values.len());
    let points = values.iter().enumerate().map(|(at, value)| {
        let y = value.map(|value| tenth(22.0 - if max > 0.0 { 20.0 * value / max } else { 0.0 }));
        (tenth(2.0 + step * (begin + at) as f64), y)
    });
    Spark { path: path(points), summary }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_marks() {
        for (max, parts, step) in
            [(1.0, 4, 0.5), (9.0, 4, 5.0), (3.9, 4, 1.0), (1_000.0, 4, 500.0), (0.03, 4, 0.01)]
        {
            assert!((nice_step(max, parts) - step).abs() < step * 1e-6, "{max}: {}", nice_step(max, parts));
        }
        let at = |text: &str| text.parse::<UnixMillis>().expect("a time");
        let (ticks, step) = time_ticks(at("2026-11-30T20:01:02Z"), at("2026-11-30T20:11:02Z"), 5);
        let labels: Vec<String> = ticks.into_iter().map(|tick| time_label(tick, step)).collect();
        assert_eq!(labels, ["20:02", "20:04", "20:06", "20:08", "20:10"]);
        let (ticks, step) = time_ticks(UnixMillis(0), UnixMillis(i64::MAX), 5);
        assert!(ticks.len() <= 64 && step > 0);
    }

    #[test]
    fn a_gap_lifts_the_pen() {
        let points = [(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(4.0))];
        assert_eq!(path(points.into_iter()), "M0 1h.1L1 2M3 4h.1");
    }

    #[test]
    fn a_chart_says_its_unit_its_zone_and_what_it_lacks() {
        let about = || About { id: "c", title: "Writes", unit: "ms", nothing: "nothing was written yet" };
        let series = |points| vec![Series { class: "line-a", name: "p50", points }];
        let (from, to) = (UnixMillis(0), UnixMillis(60_000));
        let full = time_chart(about(), from, to, series(vec![(UnixMillis(0), Some(2.0)), (to, Some(4.0))]));
        let drawn = full.render().expect("a chart");
        for wanted in ["UTC", "ms", "M44 74h.1L390 12", "now 4.00 ms"] {
            assert!(drawn.contains(wanted), "{wanted} in {drawn}");
        }
        assert!(!drawn.contains("nothing was written yet"));
        let empty = time_chart(about(), from, to, series(Vec::new()));
        assert!(empty.render().expect("a chart").contains("nothing was written yet"));
    }
}
