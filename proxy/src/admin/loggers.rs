//! `/logging`.

use super::{
    query::Query,
    reply::{Reply, Status},
};
use crate::telemetry::log::{self, Level, LevelError};

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)\n\
    usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
    usage: /logging?level=<level> (change all levels)\n\
    usage: /logging?group=<group_name>:<level> (change group of loggers)\n";

pub(super) fn answer(query: &Query) -> Reply {
    match change(query) {
        Ok(()) => Reply::text(Status::OK, active()),
        Err(problem) => {
            let levels: String = Level::ALL.iter().map(|level| format!("{} ", level.name())).collect();
            let text = format!("error: {problem}\n\n{USAGE}levels: {levels}\n{}", active());
            Reply::text(Status::BAD_REQUEST, text)
        }
    }
}

fn change(query: &Query) -> Result<(), String> {
    let told = |error: LevelError| error.to_string();
    match query.pairs() {
        [] => Ok(()),
        [(name, value)] => match name.as_str() {
            "level" if value.is_empty() => Ok(()),
            "level" => Level::parse(value).map(log::set_all).ok_or_else(|| told(LevelError::Level)),
            "group" => Err("group parameter requires fine-grain logging to be enabled".into()),
            "paths" => log::set(&log::pairs(value)).map_err(told),
            name => log::set(&[(name, value)]).map_err(told),
        },
        _ => Err("invalid number of parameters".into()),
    }
}

fn active() -> String {
    let lines: String = log::levels().map(|(name, level)| format!("  {name}: {}\n", level.name())).collect();
    format!("active loggers:\n{lines}\n")
}
