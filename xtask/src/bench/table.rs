//! The results as a table in Markdown.

use std::collections::BTreeMap;

use super::configuration::{Proxy, ROWS};
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
        let text = |part: Option<f64>| part.map_or("-".to_owned(), |part| format!("{part:.2}"));
        let of_envoy = part(Proxy::Envoy);
        let target = match (row.target, of_envoy) {
            (Some(target), Some(part)) => format!("{target:.2} {}", if part <= target { "met" } else { "missed" }),
            (Some(target), None) => format!("{target:.2}"),
            (None, _) => "-".to_owned(),
        };
        let cells = Proxy::ALL.map(cell).join(" | ");
        println!(
            "| {} | {cells} | {} | {target} | {} | {} |",
            row.name,
            text(of_envoy),
            text(part(Proxy::Haproxy)),
            text(part(Proxy::Nginx))
        );
    }
    for ((index, proxy), shown) in costs {
        if let Shown::None(why) = shown {
            println!("\n{} cannot do \"{}\": {why}", proxy.name(), ROWS[*index].name);
        }
    }
    if weights.is_empty() {
        return;
    }
    println!("\n| | weir | Envoy | HAProxy | nginx |\n|---|---|---|---|---|");
    let row = |name: &str, of: &dyn Fn(&Weight) -> String| {
        let cells = Proxy::ALL.map(|proxy| weights.get(&proxy).map_or("-".to_owned(), of));
        println!("| {name} | {} |", cells.join(" | "));
    };
    let megabytes = |kilobytes: u64| format!("{:.1}", kilobytes as f64 / 1024.0);
    row("memory idle, MB resident", &|weight| megabytes(weight.idle));
    row(&format!("memory at {CONNECTIONS} connections, MB"), &|weight| megabytes(weight.connected));
    row("start to first answer, ms, minimum (median)", &|weight| {
        let mut times: Vec<f64> = weight.start.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        let (least, middle) = least_and_middle(&mut times);
        format!("{least:.0} ({middle:.0})")
    });
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
    fn ratios_are_of_minima() {
        let [weir, envoy] = [vec![12_000.0, 10_000.0, 90_000.0], vec![25_000.0, 20_000.0, 21_000.0]].map(Shown::Cost);
        assert_eq!(ratio(&weir, &envoy), Some(0.5));
        assert_eq!(cost(&weir), "10.0 (12.0)");
        assert_eq!(ratio(&weir, &Shown::None("not yet: no TLS".to_owned())), None);
        assert_eq!(cost(&Shown::None("not yet: no TLS".to_owned())), "not yet");
    }
}
