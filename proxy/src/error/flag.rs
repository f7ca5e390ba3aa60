//! Envoy's response flags.

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $letters:literal),+ $(,)?) => {
        /// Envoy's response flags, as far as weir sets them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Flag {
            $($(#[$doc])* $name),+
        }

        impl Flag {
            /// All flags, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Envoy's letters.
            pub fn letters(self) -> &'static str {
                match self {
                    $(Self::$name => $letters),+
                }
            }
        }
    };
}

flags! {
    /// NR: no route.
    NoRoute = "NR",
    /// UH: no healthy upstream.
    NoHealthyUpstream = "UH",
    /// DF: DNS resolution failed.
    DnsFailure = "DF",
    /// UF: upstream connection failure.
    UpstreamConnectFailure = "UF",
    /// UC: upstream connection termination.
    UpstreamConnectionTermination = "UC",
    /// UR: upstream remote reset.
    UpstreamReset = "UR",
    /// UPE: upstream protocol error.
    UpstreamProtocolError = "UPE",
    /// UT: the request, or an attempt, took too long.
    UpstreamTimeout = "UT",
    /// SI: nothing came for too long.
    StreamIdle = "SI",
    /// URX: as many retries as there may be were made, and the last one failed too.
    RetryLimit = "URX",
    /// DC: downstream connection termination.
    DownstreamTermination = "DC",
    /// DPE: downstream protocol error.
    DownstreamProtocolError = "DPE",
    /// DT: the caller's own deadline had passed.
    DownstreamDeadline = "DT",
    /// UAEX: the caller may not do this.
    Unauthorized = "UAEX",
}
