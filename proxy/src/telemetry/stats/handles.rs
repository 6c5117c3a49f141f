//! Structs of handles, declared by the names under which they are registered.

/// Declares a struct of handles, each registered under the name of its field. `Name: Other { ... }` has those of `Other`,
/// too.
macro_rules! handles {
    ($(#[$meta:meta])* $name:ident $(: $shared:ident)? {
        counters { $($counter:ident)* }
        gauges { $($gauge:ident)* }
        histograms { $($histogram:ident: $unit:ident)* }
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name {
            $(shared: $shared,)?
            $(pub $counter: $crate::telemetry::stats::Counter,)*
            $(pub $gauge: $crate::telemetry::stats::Gauge,)*
            $(pub $histogram: $crate::telemetry::stats::Histogram,)*
        }

        impl $name {
            pub(crate) fn register(scope: &$crate::telemetry::stats::Scope) -> Self {
                Self {
                    $(shared: $shared::register(scope),)?
                    $($counter: scope.counter(stringify!($counter)),)*
                    $($gauge: scope.gauge(stringify!($gauge)),)*
                    $($histogram: scope.histogram(stringify!($histogram), $crate::telemetry::stats::Unit::$unit),)*
                }
            }
        }

        $(impl ::std::ops::Deref for $name {
            type Target = $shared;

            fn deref(&self) -> &$shared {
                &self.shared
            }
        })?
    };
}

pub(crate) use handles;
