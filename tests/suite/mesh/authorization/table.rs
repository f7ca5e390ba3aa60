//! Policies, calls, and what must become of them.

use std::net::{IpAddr, Ipv4Addr};

/// Policies, and calls that they judge.
pub struct Group {
    pub name: &'static str,
    /// In YAML; `APP_PORT` is the app's port.
    pub policies: &'static str,
    pub cases: &'static [Case],
}

/// One call and its verdict.
#[derive(Debug)]
pub struct Case {
    /// Who calls: `cart`, `billing`, `other` (of another trust domain), `nobody` (in the clear); `@127.0.0.5` from there.
    who: &'static str,
    /// `METHOD PATH HOST`, then header fields; `tcp` for opaque bytes.
    what: &'static str,
    /// In the log's words.
    pub verdict: &'static str,
}

const fn case(who: &'static str, what: &'static str, verdict: &'static str) -> Case {
    Case { who, what, verdict }
}

impl Case {
    pub fn caller(&self) -> &'static str {
        self.who.split('@').next().unwrap_or_default()
    }

    pub fn address(&self) -> IpAddr {
        let told = self.who.split_once('@').and_then(|(_, address)| address.parse().ok());
        told.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub fn is_tcp(&self) -> bool {
        self.what == "tcp"
    }

    /// Method, path, host, header lines.
    pub fn parts(&self) -> (&'static str, &'static str, &'static str, Vec<String>) {
        let what = if self.is_tcp() { "GET / app" } else { self.what };
        let mut words = what.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (method, path, host) = (next(), next(), next());
        (method, path, host, words.map(|field| field.replacen(':', ": ", 1)).collect())
    }

    pub fn request(&self) -> String {
        let (method, path, host, headers) = self.parts();
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        // Not `close`: what `Connection` names is part of some calls, and comes first.
        let close = if headers.contains("connection:") { "" } else { "connection: close\r\n" };
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}{close}\r\n")
    }
}

const OK: &str = "allowed";
const NONE: &str = "denied: no policy allows it";

pub const GROUPS: &[Group] = &[
    Group {
        name: "without policies everybody may",
        policies: "[]",
        cases: &[case("nobody", "GET / app", OK), case("cart", "POST /pay app", OK), case("nobody", "tcp", OK)],
    },
    Group {
        name: "who, and what",
        policies: "[{ name: cart-pays, listeners: [in], action: allow, from: [{ principals: ['spiffe://shop.example/ns/shop/sa/cart'] }],
                      to: [{ methods: [POST], paths: [{ prefix: /pay }] }] }]",
        cases: &[
            case("cart", "POST /pay app", OK),
            case("cart", "POST /pay/1?x=/other app", OK),
            case("cart", "GET /pay app", NONE),
            case("cart", "POST /payment app", NONE),
            case("billing", "POST /pay app", NONE),
            case("other", "POST /pay app", NONE),
            case("nobody", "POST /pay app", NONE),
            // The policy is for the other listener.
            case("nobody", "tcp", OK),
        ],
    },
    Group {
        name: "deny comes first, wherever it stands",
        policies: "[{ name: all, listeners: [in], action: allow }, { name: no-admin, listeners: [in], action: deny, to: [{ paths: [{ prefix: /admin }] }] }]",
        cases: &[
            case("cart", "GET /x app", OK),
            case("cart", "GET /admin app", "denied by no-admin"),
            case("nobody", "GET /admin/x app", "denied by no-admin"),
            case("nobody", "GET /administrator app", OK),
        ],
    },
    Group {
        name: "the first that denies is named",
        policies: "[{ name: a, listeners: [in], action: deny, to: [{ methods: [DELETE] }] }, { name: b, listeners: [in], action: deny, to: [{ paths: [{ exact: /x }] }] }]",
        cases: &[
            case("cart", "DELETE /x app", "denied by a"),
            case("cart", "GET /x app", "denied by b"),
            case("cart", "GET /y app", OK),
        ],
    },
    Group {
        name: "namespaces and accounts are those of the own trust domain",
        policies: "[{ name: shop, action: allow, from: [{ namespaces: [shop] }, { service_accounts: [finance/billing] }] }]",
        cases: &[
            case("cart", "GET / app", OK),
            case("billing", "GET / app", OK),
            case("other", "GET / app", NONE),
            case("nobody", "GET / app", NONE),
            case("cart", "tcp", OK),
            case("other", "tcp", NONE),
            case("nobody", "tcp", NONE),
        ],
    },
    Group {
        name: "patterns of principals",
        policies: "[{ name: known, action: allow, from: [{ principals: ['spiffe://other.example', 'spiffe://shop.example/ns/fin/*'] }] }]",
        cases: &[case("other", "GET / app", OK), case("billing", "GET / app", NONE), case("cart", "GET / app", NONE)],
    },
    Group {
        name: "anybody that is known",
        policies: "[{ name: known, action: allow, from: [{ principals: ['*'] }] }]",
        cases: &[case("other", "GET / app", OK), case("nobody", "GET / app", NONE), case("nobody", "tcp", NONE), case("billing", "tcp", OK)],
    },
    Group {
        name: "who is not meant: a caller in the clear is none of them",
        policies: "[{ name: others, action: deny, from: [{ not_principals: ['spiffe://shop.example/ns/shop/*'] }] }]",
        cases: &[
            case("cart", "GET / app", OK),
            case("billing", "GET / app", "denied by others"),
            case("nobody", "GET / app", "denied by others"),
            case("nobody", "tcp", "denied by others"),
        ],
    },
    Group {
        name: "not these namespaces and accounts",
        policies: "[{ name: rest, action: deny, from: [{ namespaces: [shop, finance], not_service_accounts: [shop/cart] }] }]",
        cases: &[case("cart", "GET / app", OK), case("billing", "GET / app", "denied by rest"), case("other", "GET / app", OK)],
    },
    Group {
        name: "where from",
        policies: "[{ name: near, action: allow, from: [{ addresses: [127.0.0.0/30], not_addresses: [127.0.0.2] }] }]",
        cases: &[
            case("nobody@127.0.0.3", "GET / app", OK),
            case("nobody@127.0.0.2", "GET / app", NONE),
            case("cart@127.0.0.5", "GET / app", NONE),
            case("cart@127.0.0.3", "tcp", OK),
            case("cart@127.0.0.5", "tcp", NONE),
            // What a caller says of itself is not where it is.
            case("nobody@127.0.0.5", "GET / app x-forwarded-for:127.0.0.3", NONE),
        ],
    },
    Group {
        name: "conditions of one entry must all hold, entries are alternatives",
        policies: "[{ name: both, action: allow, from: [{ namespaces: [shop], addresses: [127.0.0.3] }, { namespaces: [finance] }] }]",
        cases: &[
            case("cart@127.0.0.3", "GET / app", OK),
            case("cart@127.0.0.4", "GET / app", NONE),
            case("billing@127.0.0.4", "GET / app", OK),
        ],
    },
    Group {
        name: "hosts, however they are written",
        policies: "[{ name: internal, listeners: [in], action: deny, to: [{ hosts: [admin.shop, '*.corp'] }] }]",
        cases: &[
            case("cart", "GET / admin.shop", "denied by internal"),
            case("cart", "GET / ADMIN.Shop", "denied by internal"),
            case("cart", "GET / admin.shop.", "denied by internal"),
            case("cart", "GET / admin.shop:8080", "denied by internal"),
            case("cart", "GET / a.b.CORP.:1", "denied by internal"),
            case("cart", "GET / corp", OK),
            case("cart", "GET / xadmin.shop", OK),
        ],
    },
    Group {
        name: "all hosts but these",
        policies: "[{ name: public, listeners: [in], action: allow, to: [{ not_hosts: [admin.shop] }] }]",
        cases: &[case("cart", "GET / www.shop", OK), case("cart", "GET / admin.shop:1", NONE)],
    },
    Group {
        name: "methods: some apps do not care for case",
        policies: "[{ name: reads, listeners: [in], action: allow, to: [{ methods: [GET] }] }, { name: no-head, listeners: [in], action: deny, to: [{ methods: [PURGE] }] }]",
        cases: &[
            case("cart", "GET / app", OK),
            case("cart", "get / app", NONE),
            case("cart", "PURGE / app", "denied by no-head"),
            case("cart", "purge / app", "denied by no-head"),
            case("cart", "POST / app", NONE),
        ],
    },
    Group {
        name: "a path that is denied, however it is written",
        policies: "[{ name: no-admin, listeners: [in], action: deny, to: [{ paths: [{ prefix: /admin }, { exact: /a(1) }] }] }]",
        cases: &[
            case("cart", "GET /%61dmin app", "denied by no-admin"),
            case("cart", "GET //admin app", "denied by no-admin"),
            case("cart", "GET /x/../admin app", "denied by no-admin"),
            case("cart", "GET /x/%2e%2E/admin app", "denied by no-admin"),
            case("cart", "GET /./admin app", "denied by no-admin"),
            case("cart", "GET /admin;x=1/y app", "denied by no-admin"),
            case("cart", "GET /admin%2fy app", "denied by no-admin"),
            case("cart", "GET /x%2F..%2Fadmin app", "denied by no-admin"),
            case("cart", "GET /x/..%5cadmin app", "denied by no-admin"),
            case("cart", "GET /x\\..\\admin app", "denied by no-admin"),
            case("cart", "GET /%2561dmin app", "denied by no-admin"),
            case("cart", "GET /x/..%252Fadmin app", "denied by no-admin"),
            case("cart", "GET /x/..;/admin app", "denied by no-admin"),
            case("cart", "GET /admin/..;/x app", "denied by no-admin"),
            case("cart", "GET /a%281%29 app", "denied by no-admin"),
            case("cart", "GET /%2525252561 app", "denied by no-admin"),
            case("cart", "GET /x%20y app", OK),
            case("cart", "GET /x/%2e/y;z app", OK),
            case("cart", "GET /x?/admin app", OK),
        ],
    },
    Group {
        name: "a path that is allowed must be it however it is read",
        policies: "[{ name: public, listeners: [in], action: allow, to: [{ paths: [{ prefix: /public }, { exact: /caf%C3%A9 }, { exact: /a%2Fb }] }] }]",
        cases: &[
            case("cart", "GET /public/x%20y app", OK),
            case("cart", "GET /public/a%2Fb app", OK),
            case("cart", "GET /caf%c3%a9 app", OK),
            case("cart", "GET /a%2fb app", OK),
            case("cart", "GET /public/%2e%2e/x app", NONE),
            case("cart", "GET /public/..%2fx app", NONE),
            case("cart", "GET /public%2f..%2fx app", NONE),
            case("cart", "GET /public/..;/x app", NONE),
            case("cart", "GET /public;/x app", NONE),
        ],
    },
    Group {
        name: "all paths but these",
        policies: "[{ name: most, listeners: [in], action: allow, to: [{ not_paths: [{ prefix: /admin }] }] }]",
        cases: &[
            case("cart", "GET /x app", OK),
            case("cart", "GET /admin app", NONE),
            case("cart", "GET /x%2f..%2fadmin app", NONE),
        ],
    },
    Group {
        name: "a header that is denied, however often it comes",
        policies: "[{ name: no-root, listeners: [in], action: deny, to: [{ headers: { x-role: root } }] }]",
        cases: &[
            case("cart", "GET / app x-role:root", "denied by no-root"),
            case("cart", "GET / app X-Role:root", "denied by no-root"),
            case("cart", "GET / app x-role:user x-role:root", "denied by no-root"),
            case("cart", "GET / app x-role:root x-role:user", "denied by no-root"),
            case("cart", "GET / app x-role:user,root", "denied by no-root"),
            case("cart", "GET / app x_role:root", "denied by no-root"),
            case("cart", "GET / app x-role:user", OK),
            case("cart", "GET / app x-role:rooted", OK),
        ],
    },
    Group {
        name: "a header that must be there must be there for the app",
        policies: "[{ name: gold, listeners: [in], action: allow, to: [{ headers: { x-tier: gold } }] }]",
        cases: &[
            case("cart", "GET / app x-tier:gold", OK),
            case("cart", "GET / app x-tier:gold x-tier:gold", NONE),
            case("cart", "GET / app x-tier:gold x-tier:tin", NONE),
            case("cart", "GET / app x-tier:gold x_tier:tin", NONE),
            case("cart", "GET / app x-tier:gold connection:x-tier,close", NONE),
            case("cart", "GET / app", NONE),
        ],
    },
    Group {
        name: "the app's port",
        policies: "[{ name: this, action: allow, to: [{ ports: [APP_PORT] }] }]",
        cases: &[case("nobody", "GET / app", OK), case("nobody", "tcp", OK)],
    },
    Group {
        name: "another port",
        policies: "[{ name: that, action: allow, to: [{ ports: [1], not_ports: [APP_PORT] }] }, { name: third, action: allow, from: [{ addresses: [127.0.0.3] }] }]",
        cases: &[case("nobody", "GET / app", NONE), case("nobody", "tcp", NONE), case("nobody@127.0.0.3", "tcp", OK)],
    },
    Group {
        name: "on trial: nothing is refused, and it is told",
        policies: "[{ name: soon, listeners: [in], action: deny, dry_run: true, to: [{ methods: [DELETE] }] },
                    { name: only-cart, action: allow, dry_run: true, from: [{ service_accounts: [shop/cart] }] }]",
        cases: &[
            case("cart", "GET / app", OK),
            case("cart", "DELETE / app", "dry run: denied by soon"),
            case("billing", "GET / app", "dry run: denied: no policy allows it"),
            case("billing", "tcp", "dry run: denied: no policy allows it"),
        ],
    },
    Group {
        name: "on trial beside what is in force",
        policies: "[{ name: cart, action: allow, from: [{ service_accounts: [shop/cart] }] },
                    { name: billing-too, action: allow, dry_run: true, from: [{ service_accounts: [finance/billing] }] }]",
        cases: &[
            case("cart", "GET / app", OK),
            case("billing", "GET / app", "denied: no policy allows it; dry run: allowed"),
            case("other", "GET / app", NONE),
        ],
    },
    Group {
        name: "audited",
        policies: "[{ name: writes, listeners: [in], action: audit, to: [{ not_methods: [GET] }] }, { name: foreign, action: audit, from: [{ not_namespaces: [shop] }] },
                    { name: no-delete, listeners: [in], action: deny, to: [{ methods: [DELETE] }] }]",
        cases: &[
            case("cart", "GET / app", OK),
            case("cart", "POST / app", "audited by writes"),
            case("other", "POST / app", "audited by writes, foreign"),
            case("cart", "DELETE / app", "denied by no-delete; audited by writes"),
            case("nobody", "tcp", "audited by foreign"),
            // An app may take it for GET, or not.
            case("cart", "get / app", "audited by writes"),
        ],
    },
];
