//! Malformed requests, floods and slow peers: nothing passes, nothing grows.

mod corpus;
mod downgrade;
mod floods;
mod framing;
mod memory;
mod quotas;
mod unusual;

use weir_tests::{Trial, test, test_alone};

pub fn trials() -> Vec<Trial> {
    vec![
        test("malformed::corpus_is_refused_and_never_forwarded", framing::corpus),
        test("malformed::one_request_is_one_and_two_are_two", framing::one_is_one_and_two_are_two),
        test("malformed::however_a_stream_is_cut_it_means_the_same", framing::differential),
        test("malformed::http2_heads_are_not_split_into_http1_requests", downgrade::heads),
        test("malformed::valid_but_unusual_requests_pass", unusual::http1),
        test("malformed::large_heads_pass_on_http2", unusual::http2),
        test_alone("malformed::flood_of_rapid_resets", floods::rapid_resets),
        test("malformed::many_who_give_up_are_no_flood", floods::many_who_give_up),
        test_alone("malformed::flood_of_provoked_resets", floods::provoked_resets),
        test_alone("malformed::flood_of_continuations", floods::continuations),
        test_alone("malformed::flood_of_settings", floods::settings),
        test_alone("malformed::flood_of_pings", floods::pings),
        test_alone("malformed::flood_of_empty_data", floods::empty_data),
        test_alone("malformed::flood_from_a_peer_that_does_not_read", floods::deaf_peer),
        test_alone("malformed::slow_reader_on_http1", memory::slow_reader_http1),
        test_alone("malformed::slow_reader_on_http2", memory::slow_reader_http2),
        test_alone("malformed::large_upload_on_http1", memory::upload_http1),
        test_alone("malformed::large_upload_on_http2", memory::upload_http2),
        test("malformed::hosts_make_no_series", quotas::hosts_make_no_series),
        test("malformed::connections_over_the_limit_are_closed_and_counted", quotas::connections),
    ]
}
