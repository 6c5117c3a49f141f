//! Structs of handles, declared by the names under which they are registered.

/// Declares a struct of handles, each registered under the name of its field.
macro_rules! handles {
    ($(#[$meta:meta])* $name:ident {
        counters { $($counter:ident)* }
        gauges { $($gauge:ident)* }
        histograms { $($histogram:ident: $unit:ident)* }
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name {
            $(pub $counter: $crate::telemetry::stats::Counter,)*
            $(pub $gauge: $crate::telemetry::stats::Gauge,)*
            $(pub $histogram: $crate::telemetry::stats::Histogram,)*
        }

        impl $name {
            pub(crate) fn register(scope: &$crate::telemetry::stats::Scope) -> Self {
                Self {
                    $($counter: scope.counter(stringify!($counter)),)*
                    $($gauge: scope.gauge(stringify!($gauge)),)*
                    $($histogram: scope.histogram(stringify!($histogram), $crate::telemetry::stats::Unit::$unit),)*
                }
            }
        }
    };
}

pub(crate) use handles;
