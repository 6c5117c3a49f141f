//! The results as a table in Markdown.

use std::collections::BTreeMap;

use super::configuration::{LOG_TARGET, MEMORY_TARGET, Proxy, ROWS};
use super::{CONNECTIONS, Shown, Weight};

/// Prints what was measured.
pub fn print(costs: &BTreeMap<(usize, Proxy), Shown>, weights: &BTreeMap<Proxy, Weight>) {
    println!(
        "\nMicroseconds on the CPU per request, minimum (median) of the rounds; in the last columns weir's part of each.\n"
    );
    println!("| test | weir | Envoy | HAProxy | nginx | of Envoy | target | of HAProxy | of nginx |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for (index, row) in ROWS.iter().enumerate() {
        let Some(weir) = costs.get(&(index, Proxy::Weir)) else { continue };
        let cell = |proxy| costs.get(&(index, proxy)).map_or("-".to_owned(), cost);
        let part = |proxy| costs.get(&(index, proxy)).and_then(|of| ratio(weir, of));
        let of_envoy = part(Proxy::Envoy);
        let target = judged(of_envoy, row.target);
        let cells = Proxy::ALL.map(cell).join(" | ");
        println!(
            "| {} | {cells} | {} | {target} | {} | {} |",
            row.name,
            in_hundredths(of_envoy),
            in_hundredths(part(Proxy::Haproxy)),
            in_hundredths(part(Proxy::Nginx))
        );
    }
    for ((index, proxy), shown) in costs {
        if let Shown::None(why) = shown {
            println!("\n{} cannot do \"{}\": {why}", proxy.name(), ROWS[*index].name);
        }
    }
    print_log_cost(costs);
    print_weights(weights);
}

/// What the access log adds to the row before, which is the same without it. The two take turns, so that each round tells.
fn print_log_cost(costs: &BTreeMap<(usize, Proxy), Shown>) {
    let added = |proxy| {
        let with = ROWS.iter().position(|row| row.log)?;
        added(costs.get(&(with, proxy))?, costs.get(&(with.checked_sub(1)?, proxy))?)
    };
    let Some(weir) = added(Proxy::Weir) else { return };
    let percent = |part: f64| format!("{:+.1} %", 100.0 * part);
    let others =
        Proxy::ALL[1..].iter().filter_map(|proxy| Some(format!("{} {}", proxy.name(), percent(added(*proxy)?))));
    println!(
        "\nIstio's access log adds {} to weir (median of the rounds; target: at most {:.0} %, {}); to others: {}.",
        percent(weir),
        100.0 * LOG_TARGET,
        if weir <= LOG_TARGET { "met" } else { "missed" },
        others.collect::<Vec<_>>().join(", ")
    );
}

fn print_weights(weights: &BTreeMap<Proxy, Weight>) {
    if weights.is_empty() {
        return;
    }
    println!("\n| | weir | Envoy | HAProxy | nginx | of Envoy | target |\n|---|---|---|---|---|---|---|");
    let row = |name: &str, part: &str, target: &str, of: &dyn Fn(&Weight) -> String| {
        let cells = Proxy::ALL.map(|proxy| weights.get(&proxy).map_or("-".to_owned(), of));
        println!("| {name} | {} | {part} | {target} |", cells.join(" | "));
    };
    let memory = |name: &str, of: &dyn Fn(&Weight) -> u64| {
        let part = weights.get(&Proxy::Weir).zip(weights.get(&Proxy::Envoy));
        let part = part.map(|(weir, envoy)| of(weir) as f64 / of(envoy) as f64);
        let megabytes = |weight: &Weight| format!("{:.1}", of(weight) as f64 / 1024.0);
        row(name, &in_hundredths(part), &judged(part, Some(MEMORY_TARGET)), &megabytes);
    };
    memory("memory idle, MB resident", &|weight| weight.idle);
    memory(&format!("memory at {CONNECTIONS} connections, MB"), &|weight| weight.connected);
    row("start to first answer, ms, minimum (median)", "-", "-", &|weight| {
        let mut times: Vec<f64> = weight.start.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        let (least, middle) = least_and_middle(&mut times);
        format!("{least:.0} ({middle:.0})")
    });
}

fn in_hundredths(part: Option<f64>) -> String {
    part.map_or("-".to_owned(), |part| format!("{part:.2}"))
}

/// A target, and whether it is met.
fn judged(part: Option<f64>, target: Option<f64>) -> String {
    match (target, part) {
        (Some(target), Some(part)) => format!("{target:.2} {}", if part <= target { "met" } else { "missed" }),
        (Some(target), None) => format!("{target:.2}"),
        (None, _) => "-".to_owned(),
    }
}

fn cost(shown: &Shown) -> String {
    match shown {
        Shown::Cost(costs) => {
            let (least, middle) = least_and_middle(&mut costs.clone());
            format!("{:.1} ({:.1})", least / 1000.0, middle / 1000.0)
        }
        Shown::None(why) if why.starts_with("not yet") => "not yet".to_owned(),
        Shown::None(_) => "-".to_owned(),
    }
}

/// Of the minima, which are what the work costs when nothing else disturbs.
fn ratio(weir: &Shown, other: &Shown) -> Option<f64> {
    match (weir, other) {
        (Shown::Cost(weir), Shown::Cost(other)) => {
            Some(least_and_middle(&mut weir.clone()).0 / least_and_middle(&mut other.clone()).0)
        }
        _ => None,
    }
}

/// By how much one costs more than another, as a part: the median of rounds, as two minima come from different moments, and
/// differ more than a log costs.
fn added(with: &Shown, without: &Shown) -> Option<f64> {
    match (with, without) {
        (Shown::Cost(with), Shown::Cost(without)) => {
            let mut parts: Vec<f64> = with.iter().zip(without).map(|(with, without)| with / without - 1.0).collect();
            Some(least_and_middle(&mut parts).1)
        }
        _ => None,
    }
}

fn least_and_middle(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    match values {
        [] => (f64::NAN, f64::NAN),
        values => (values[0], values[values.len() / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_minima_and_judged_by_targets() {
        let [weir, envoy] = [vec![12_000.0, 10_000.0, 90_000.0], vec![25_000.0, 20_000.0, 21_000.0]].map(Shown::Cost);
        assert_eq!(ratio(&weir, &envoy), Some(0.5));
        assert_eq!(cost(&weir), "10.0 (12.0)");
        assert_eq!(ratio(&weir, &Shown::None("not yet: no TLS".to_owned())), None);
        assert_eq!(cost(&Shown::None("not yet: no TLS".to_owned())), "not yet");
        let [with, without] = [vec![22_000.0, 11_000.0, 10_500.0], vec![20_000.0, 10_000.0, 10_500.0]].map(Shown::Cost);
        assert!((added(&with, &without).unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(judged(Some(0.401), Some(0.4)), "0.40 missed");
        assert_eq!(judged(Some(0.4), Some(0.4)), "0.40 met");
    }
}
