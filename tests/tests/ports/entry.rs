//! The HTTP entry: ports of workspaces as `http://PORT-WORKSPACE.localhost:ENTRY/`, asked byte by byte.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::CreateRequest;
use cordium_tests::{
    Context, Fixture, Result, Workspace, ensure, ensure_eq, forward::LIMIT, json, node::Options,
    suite::TearDown as _,
};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Says what it was asked, head and body, in its answer; for a WebSocket it echoes from then on. It does not answer `/never`.
/// When it has heard the end of either of those, it says so in a file.
const SERVER: &str = r#"exec perl -MIO::Socket::INET -e '$SIG{CHLD} = "IGNORE"; $| = 1;
    $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 3000, Listen => 64, ReuseAddr => 1) or die;
    while ($c = $s->accept) { next if fork; $c->autoflush(1);
        while (1) { $head = ""; while (<$c>) { $head .= $_; last if $_ eq "\r\n" } exit unless length $head;
            if ($head =~ /upgrade: websocket/i) {
                print $c "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                while (sysread($c, $b, 100)) { syswrite($c, $b) } open F, ">/tmp/ended-socket"; exit }
            if ($head =~ m{^GET /never}) { open F, ">/tmp/asked-never"; sysread($c, $b, 100); open F, ">/tmp/ended-never"; exit }
            $body = ""; read($c, $body, $1) if $head =~ /content-length: (\d+)/i; $all = "<<$head$body>>";
            print $c "HTTP/1.1 200 OK\r\nSet-Cookie: cordium_token=stolen\r\nSet-Cookie: own=1\r\nContent-Length: ", length $all, "\r\n\r\n$all" } }'"#;

pub struct Page {
    entry: u16,
    host: String,
    token: String,
}

impl Page {
    pub async fn open(f: &Fixture, args: &[&str]) -> Result<Self> {
        let url = f.cli().ok(&[&["open"], args].concat()).await?;
        let rest = url.trim().strip_prefix("http://").context("no URL")?;
        let (host, query) = rest.split_once('/').context("no path")?;
        let token = query.strip_prefix("?cordium_token=").context("no token")?;
        let port = host.rsplit_once(':').context("no port")?.1.parse()?;
        Ok(Self { entry: port, host: host.to_owned(), token: token.to_owned() })
    }

    /// Sends these bytes, and returns everything that comes back.
    async fn raw(&self, request: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.entry)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let read = timeout(LIMIT, stream.read_to_end(&mut answer)).await.context("no end came")?;
        // What is refused may be reset after the answer.
        ensure!(read.is_ok() || !answer.is_empty(), "{read:?}");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn get(&self, path: &str, more: &str) -> Result<String> {
        let host = &self.host;
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n")).await
    }

    /// As a browser: the address, the cookie, the page.
    pub async fn visit(&self) -> Result<String> {
        self.get("/", &sent(&self.cookie().await?)).await
    }

    /// What the address is exchanged for.
    async fn cookie(&self) -> Result<String> {
        let answer = self.get(&format!("/x?a=b&cordium_token={}&c=d", self.token), "").await?;
        ensure!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
        ensure!(answer.contains(&format!("location: http://{}/x?a=b&c=d\r\n", self.host)), "{answer}");
        let (_, rest) = answer.split_once("set-cookie: cordium_token=").context("no cookie")?;
        let (value, rest) = rest.split_once("; ").context("a bare cookie")?;
        ensure!(rest.starts_with("Path=/; HttpOnly; SameSite=Lax\r\n"), "{answer}");
        ensure!(value.len() == 64 && value != self.token, "the cookie is the token: {answer}");
        Ok(value.to_owned())
    }
}

fn sent(cookie: &str) -> String {
    format!("Cookie: a=1; cordium_token={cookie}; b=2\r\n")
}

/// Waits for what the program says in a file.
async fn says(w: &Workspace, what: &str) -> Result<()> {
    w.ok(&format!("for i in $(seq 300); do [ -e /tmp/{what} ] && exit 0; sleep 0.1; done; exit 1")).await?;
    Ok(())
}

pub async fn a_page_is_reached_with_the_token_and_the_workspace_never_sees_it(f: Arc<Fixture>) -> Result<()> {
    let mut spec = super::served(SERVER, 3000);
    spec["applications"] = json!([{"name": "web", "port": 3000}]);
    let w = f.run("site", &f.base(spec)).await?;
    let page = Page::open(&f, &["site", "web"]).await?;
    ensure!(page.host.starts_with("3000-site.localhost:"), "{}", page.host);
    ensure_eq!(Page::open(&f, &["site", "3000"]).await?.token, page.token);
    // The token is exchanged for a cookie, and leaves the address.
    let cookie = page.cookie().await?;
    let with = sent(&cookie);
    let answer = page.get("/x?a=b", &with).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    ensure!(answer.contains("<<GET /x?a=b HTTP/1.1\r\n") && answer.contains("a=1; b=2\r\n"), "{answer}");
    ensure!(answer.contains(&page.host), "the program is not told its host: {answer}");
    ensure!(!answer.contains(&cookie) && !answer.contains("cordium_token"), "{answer}");
    ensure!(answer.contains("set-cookie: own=1\r\n"), "{answer}");
    let post = format!(
        "POST /p?cordium_token={} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        page.token, page.host
    );
    let answer = page.raw(&post).await?;
    ensure!(answer.contains("<<POST /p HTTP/1.1\r\n") && answer.contains("hello>>"), "{answer}");
    // Several requests on one connection.
    let one = format!("GET /1 HTTP/1.1\r\nHost: {}\r\n{}\r\n", page.host, with);
    let last = one.replace("GET /1", "GET /2").replace("Cookie:", "Connection: close\r\nCookie:");
    let answer = page.raw(&format!("{one}{last}")).await?;
    ensure!(answer.contains("<<GET /1 ") && answer.contains("<<GET /2 "), "{answer}");
    // Who breaks a request off breaks it off inside, too.
    let mut stream = TcpStream::connect(("127.0.0.1", page.entry)).await?;
    stream.write_all(format!("GET /never HTTP/1.1\r\nHost: {}\r\n{with}\r\n", page.host).as_bytes()).await?;
    says(&w, "asked-never").await?;
    drop(stream);
    says(&w, "ended-never").await?;
    // Nothing listens there; then nothing runs.
    let silent = Page::open(&f, &["site", "9"]).await?;
    ensure!(silent.host.starts_with("9-site.localhost:"), "{}", silent.host);
    let answer = silent.get("/", &sent(&silent.cookie().await?)).await?;
    ensure!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("nothing serves port 9"), "{answer}");
    w.stop().await?;
    let answer = page.get("/", &with).await?;
    ensure!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"next\":\"cordium start site\""),
        "{answer}"
    );
    let answer = page.get("/", &format!("Accept: text/html\r\n{with}")).await?;
    ensure!(answer.contains("<pre>cordium start site</pre>"), "{answer}");
    w.delete().await
}

pub async fn a_web_socket_passes(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("socket", &f.base(super::served(SERVER, 3000))).await?;
    let page = Page::open(&f, &["socket"]).await?;
    let mut stream = TcpStream::connect(("127.0.0.1", page.entry)).await?;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n{}\r\n",
        page.host,
        sent(&page.cookie().await?)
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(LIMIT, stream.read_u8()).await.context("no answer came")??);
    }
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    ensure!(answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: websocket\r\n"), "{answer}");
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).await?;
        let mut back = [0; 3];
        timeout(LIMIT, stream.read_exact(&mut back)).await.context("no echo came")??;
        ensure_eq!(back.as_slice(), word.as_bytes());
    }
    let mut second = TcpStream::connect(("127.0.0.1", page.entry)).await?;
    second.write_all(head.as_bytes()).await?;
    second.read_u8().await?;
    drop(second);
    says(&w, "ended-socket").await?;
    w.stop().await?;
    let ended = timeout(LIMIT, stream.read_u8()).await.context("it is still open")?;
    ensure!(ended.is_err(), "{ended:?}");
    w.delete().await
}

pub async fn without_the_token_or_by_another_name_nothing_is_reached(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("closed", &f.base(super::served(SERVER, 3000))).await?;
    let other = f.create("neighbour", &f.small(json!({}))).await?;
    let page = Page::open(&f, &["closed", "3000"]).await?;
    let neighbours = Page::open(&f, &["neighbour", "3000"]).await?;
    ensure!(page.token != neighbours.token, "two workspaces have one token");
    let answer = page.get(&format!("/?cordium_token={}", neighbours.token), "").await?;
    ensure!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let (own, neighbours) = (page.cookie().await?, neighbours.cookie().await?);
    let another = Page::open(&f, &["closed", "3001"]).await?.cookie().await?;
    for more in [
        String::new(),
        "Cookie: cordium_token=\r\n".to_owned(),
        sent(&neighbours),
        sent(&another),
        sent(&page.token),
        format!("Cookie: other={own}\r\n"),
        // A page of another origin asks, and the browser adds the cookie.
        format!("{}Origin: http://{}9\r\n", sent(&own), page.host),
        format!("{}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", sent(&own)),
    ] {
        let answer = page.get("/", &more).await?;
        ensure!(
            answer.starts_with("HTTP/1.1 401 ") && answer.contains("cordium open closed 3000"),
            "{answer}"
        );
    }
    // Outside the default space a workspace is named by its uid: one label, one site.
    f.cli().ok(&["create", "space", "team"]).await?;
    let far = Workspace::create_with(
        &f.clients,
        CreateRequest {
            name: "closed".to_owned(),
            space: "team".to_owned(),
            spec_json: f.small(json!({})).to_string(),
            ..Default::default()
        },
    )
    .await?;
    let elsewhere = Page::open(&f, &["closed", "3000", "--space", "team"]).await?;
    ensure!(elsewhere.host.starts_with(&format!("3000-{}.localhost:", far.uid)), "{}", elsewhere.host);
    let answer = elsewhere.visit().await?;
    ensure!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    far.delete().await?;
    // What does not exist looks the same.
    let absent = Page { host: page.host.replace("closed", "absent"), ..page };
    ensure!(absent.get("/", &sent(&own)).await?.starts_with("HTTP/1.1 401 "), "it is told what exists");
    let page = Page { host: absent.host.replace("absent", "closed"), ..absent };
    let (entry, cookie) = (page.entry, sent(&own));
    ensure!(page.get("/", &cookie).await?.starts_with("HTTP/1.1 200 "), "its own cookie is refused");
    for host in [
        format!("127.0.0.1:{entry}"),
        format!("localhost:{entry}"),
        format!("evil.example:{entry}"),
        "3000-closed.localhost".to_owned(),
        format!("3000-closed.localhost.:{entry}"),
        format!("3000-closed.localhost.evil.example:{entry}"),
        String::new(),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{cookie}\r\n");
        let answer = page.raw(&request).await?;
        ensure!(answer.starts_with("HTTP/1.1 421 "), "{host}: {answer}");
    }
    for request in [
        format!("GET / HTTP/1.1\r\nConnection: close\r\n{cookie}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {0}\r\nHost: {0}\r\nConnection: close\r\n{cookie}\r\n", page.host),
        format!(
            "GET http://3000-neighbour.localhost:{entry}/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{cookie}\r\n",
            page.host
        ),
    ] {
        let answer = page.raw(&request).await?;
        ensure!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    }
    let huge = format!("X: {}\r\n{cookie}", "x".repeat(80 << 10));
    let answer = page.get("/", &huge).await?;
    ensure!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let answer = page.get("/", &many).await?;
    ensure!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let refused = f.cli().run(&["open", "nobody-here", "80"]).await?;
    ensure!(refused.code == 1 && refused.err.contains("nobody-here"), "{refused:?}");
    other.delete().await?;
    w.delete().await
}

pub async fn a_fixed_port_outlives_the_supervisor_and_0_is_no_entry(_: Arc<Fixture>) -> Result<()> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let f = Arc::new(Fixture::start_with("fixed", |o| o.config = json!({"entryPort": free})).await?);
    let w = f.run("fixed", &f.base(super::served(SERVER, 3000))).await?;
    let page = Page::open(&f, &["fixed", "3000"]).await?;
    ensure_eq!(page.entry, free);
    let with = sent(&page.cookie().await?);
    f.node.end(Signal::SIGTERM)?;
    f.node.launch()?;
    let answered = async {
        loop {
            match page.get("/", &with).await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return,
                // The workspace is not taken up yet.
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(LIMIT, answered).await.context("the cookie is worth nothing after a restart")?;
    f.node.end(Signal::SIGTERM)?;
    f.node.configure(&Options { config: json!({"entryPort": 0}), ..Options::default() })?;
    f.node.launch()?;
    let refused = f.cli().run(&["open", "fixed", "3000"]).await?;
    ensure!(refused.code == 1 && refused.err.contains("this node has no HTTP entry"), "{refused:?}");
    ensure!(TcpStream::connect(("127.0.0.1", free)).await.is_err(), "it listens");
    Workspace { clients: f.node.clients().await?, ..w }.delete().await?;
    f.tear_down().await
}
