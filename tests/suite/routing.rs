//! Requests go where the table says.

use weir_tests::{Origin, Result, Trial, Weir, raw, same, test};

pub fn trials() -> Vec<Trial> {
    vec![test("routing::hosts_paths_and_actions", hosts_paths_and_actions)]
}

async fn hosts_paths_and_actions() -> Result {
    let (one, two) = (Origin::echo().await?, Origin::text("two").await?);
    let weir = Weir::start(&format!(
        "listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes:
  - name: shop
    hosts: [shop, '*.shop']
    rules:
      - match: [{{ path: {{ prefix: /v2 }}, headers: {{ x-beta: 'true' }} }}]
        backends: [{{ cluster: two }}]
      - match: [{{ path: {{ exact: /gone }} }}]
        redirect: {{ host: new.shop, status: 301 }}
      - match: [{{ path: {{ exact: /tea }} }}]
        respond: {{ status: 418, body: teapot }}
      - match: [{{ path: {{ prefix: /old }} }}]
        rewrite: {{ path: {{ prefix: /new }}, host: inner }}
        headers: {{ request: {{ set: {{ x-env: prod }} }}, response: {{ add: {{ x-seen: weir }} }} }}
        backends: [{{ cluster: one }}]
      - match: [{{ path: {{ prefix: /one }} }}]
        backends: [{{ cluster: one }}]
clusters:
  one: {{ endpoints: ['{}'] }}
  two: {{ endpoints: ['{}'] }}
",
        one.address, two.address
    ))
    .await?;
    let out = weir.address("out");
    let beta = "GET /v2/x HTTP/1.1\r\nhost: a.shop:99\r\nx-beta: true\r\nconnection: close\r\n\r\n";
    same!(raw::request(out, beta).await?.text(), "two");
    let gone = raw::get(out, "shop", "/gone?a=b").await?;
    same!((gone.status, gone.header("location")), (301, Some("http://new.shop/gone?a=b")));
    let tea = raw::get(out, "shop", "/tea").await?;
    same!((tea.status, tea.text().as_str(), tea.header("x-weir-error")), (418, "teapot", None));
    let old = raw::get(out, "shop", "//old/./x?y=z").await?;
    same!(old.text().lines().next(), Some("GET /new/x?y=z HTTP/1.1"));
    weir_tests::holds!(old.text().contains("host: inner\n") && old.text().contains("x-env: prod\n"), "{}", old.text());
    same!(old.header("x-seen"), Some("weir"));
    let raw_path = raw::get(out, "shop", "/one/%7e/../one//x%2Fy").await?;
    same!(raw_path.text().lines().next(), Some("GET /one/%7e/../one//x%2Fy HTTP/1.1"), "forwarded as received");
    let none = raw::get(out, "shop", "/nothing").await?;
    same!((none.status, none.header("x-weir-error")), (404, Some("no_rule")));
    let nobody = raw::get(out, "elsewhere", "/").await?;
    same!((nobody.status, nobody.header("x-weir-error")), (404, Some("no_route")));
    Ok(())
}
