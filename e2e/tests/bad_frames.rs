//! Bytes that are no requests, and requests that nobody can carry out, on every port: each is refused in a clear way,
//! costs its own connection at most, and changes nothing that is stored.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, BytesMut};
use flotilla_api::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use flotilla_api::remoting::frame::{HeaderEncoding, RemotingCommand};
use flotilla_e2e::client::{self, send_request};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::history::Dump;
use flotilla_e2e::progress;
use flotilla_e2e::raw::{End, PATIENCE, Raw, converse, converse_and_finish};
use flotilla_e2e::resources::{Usage, mib};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde_json::Value;

const TOPIC: &str = "bad-frames";
const QUEUES: u32 = 2;
/// Messages in every queue before anything bad happens.
const MESSAGES: i64 = 20;
/// What a process may grow by while all of this is done to it: half-sent frames wait within a budget of 128 MiB, twice
/// that while their buffers grow, and everything else is small. Without the budget they would take 576 MiB.
const MEMORY_GROWTH_MAX: u64 = 320 << 20;
/// Clients that announce a large frame and send a part of it.
const HALF_SENT: usize = 48;
/// Bytes announced and sent by each of them.
const ANNOUNCED: usize = 12 << 20;
const SENT_OF_IT: usize = ANNOUNCED - 1024;
/// Random frames for every port.
const RANDOM_FRAMES: usize = 40;
/// A peer that does not introduce itself is cut off within this time.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(5);

const PULL_MESSAGE: i32 = 11;

/// A whole frame around this header, whatever it is.
fn framed(kind: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u32((4 + header.len() + body.len()) as u32);
    out.put_u32(u32::from(kind) << 24 | header.len() as u32);
    out.put_slice(header);
    out.put_slice(body);
    out.to_vec()
}

fn encoded(command: &RemotingCommand) -> Vec<u8> {
    let mut out = BytesMut::new();
    command.encode(&mut out);
    out.to_vec()
}

/// A pull of the first messages of a queue.
fn pull_request(topic: &str, queue: i64) -> RemotingCommand {
    client::pull_request(topic, queue, 0, Duration::ZERO)
}

/// Bytes that are no frame, and what is wrong with them.
fn no_frames() -> Vec<(String, Vec<u8>)> {
    let mut frames: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |what: &str, bytes: Vec<u8>| frames.push((what.to_owned(), bytes));
    add("a length of 4 GiB", vec![0xff; 64]);
    let mut long = (FRAME_BYTES_MAX as u32).to_be_bytes().to_vec();
    long.resize(FRAME_BYTES_MAX + (1 << 20), 0);
    add("a frame over 16 MiB, with all of its bytes", long);
    add("a length of 0", vec![0; 64]);
    add("a length that does not hold the header's", vec![0, 0, 0, 3, 0, 0, 0, 0]);
    add(
        "a header longer than its frame",
        [&[0, 0, 0, 20, 0, 0, 0, 100][..], &[b'{'; 16]].concat(),
    );
    add(
        "a header of 16 MiB in a short frame",
        [&[0, 0, 0, 20, 0, 0xff, 0xff, 0xff][..], &[b'{'; 16]].concat(),
    );
    add("an unknown header encoding", framed(7, b"{\"code\":11}", b""));
    add("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    add(
        "TLS",
        [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 512]].concat(),
    );
    let json: [(&str, Vec<u8>); 11] = [
        ("no JSON", b"}{".to_vec()),
        ("JSON cut short", b"{\"code\":11,\"extFields\":{\"topic\":\"a".to_vec()),
        ("a list", b"[1,2,3]".to_vec()),
        ("a text", b"\"code\"".to_vec()),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 64]),
        ("no UTF-8", b"{\"code\":\"\xff\xfe\",\xc0\x80}".to_vec()),
        ("a code that is a list", b"{\"code\":[11]}".to_vec()),
        (
            "a code of 40 digits",
            format!("{{\"code\":{}}}", "9".repeat(40)).into_bytes(),
        ),
        ("deep nesting", format!("{{\"a\":{}", "[".repeat(100_000)).into_bytes()),
        ("5,000 fields", {
            let fields: Vec<String> = (0..5_000).map(|number| format!("\"f{number}\":\"x\"")).collect();
            format!("{{\"code\":11,\"extFields\":{{{}}}}}", fields.join(",")).into_bytes()
        }),
    ];
    for (what, header) in json {
        add(&format!("a JSON header: {what}"), framed(0, &header, b"body"));
    }
    let mut remark = vec![0, 11, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    remark.extend([0x7f, 0xff, 0xff, 0xff, b'r', b'e']);
    let mut fields = vec![0, 11, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    fields.extend([0xff; 8]);
    let mut key = vec![0, 11, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    key.extend([0, 0, 0, 9, 0x7f, 0xff, b'k', 0, 0, 0, 1, b'v', b'v']);
    for (what, header) in [
        ("cut short", vec![0, 11, 0]),
        ("a remark beyond its end", remark),
        ("fields beyond its end", fields),
        ("a key beyond its end", key),
    ] {
        add(&format!("a binary header: {what}"), framed(1, &header, b"body"));
    }
    frames
}

/// What is no frame ends its connection, without an answer.
fn closes_on_what_is_no_frame(port: u16, random: &mut SmallRng) -> Result<()> {
    for (what, bytes) in no_frames() {
        let (answer, end) = converse(port, &bytes, PATIENCE).with_context(|| what.clone())?;
        ensure!(
            answer.is_empty() && end == End::Closed,
            "{what}: {end:?} after {} bytes",
            answer.len()
        );
    }
    for number in 0..RANDOM_FRAMES {
        let mut garbage = vec![0; random.random_range(0..2_000)];
        random.fill_bytes(&mut garbage);
        let (kind, body) = ((number % 2) as u8, vec![7; random.random_range(0..100)]);
        // Some may by chance be requests; they are answered then, or not, and nothing else.
        converse_and_finish(port, &framed(kind, &garbage, &body)).with_context(|| format!("garbage {number}"))?;
    }
    Ok(())
}

/// A frame that ends too early is nothing: no answer, nothing stored.
fn ignores_what_is_cut_short(port: u16) -> Result<()> {
    let whole = encoded(&send_request(TOPIC, 0, &b"a message that never came whole"[..]));
    for end in (0..whole.len()).step_by(7) {
        let (answer, closed) = converse_and_finish(port, &whole[..end])?;
        ensure!(
            answer.is_empty() && closed == End::Closed,
            "cut at {end}: {closed:?} after {answer:?}"
        );
    }
    Ok(())
}

/// A request that is well written but asks for something impossible is answered, and its connection goes on.
fn answers_what_cannot_be_done(port: u16) -> Result<()> {
    let too_long = vec![b'x'; MESSAGE_BYTES_MAX + 1];
    let unknown = |code: i32| {
        (
            RemotingCommand::request(code),
            3,
            format!(" request type {code} not supported"),
        )
    };
    let mut missing = send_request(TOPIC, 0, &b"x"[..]);
    missing.fields = RemotingCommand::request(0).with_field("topic", TOPIC).fields;
    let mut requests = vec![
        unknown(9_999),
        unknown(0),
        unknown(-1),
        unknown(i32::MAX),
        unknown(i32::MIN),
        (
            send_request("unknown", 0, &b"x"[..]),
            17,
            "topic[unknown] not exist".to_owned(),
        ),
        (pull_request("unknown", 0), 17, "topic[unknown] not exist".to_owned()),
        (
            send_request(TOPIC, 99, &b"x"[..]),
            29,
            "queueId[99] is illegal".to_owned(),
        ),
        (
            send_request(TOPIC, i32::MAX.into(), &b"x"[..]),
            29,
            "is illegal".to_owned(),
        ),
        (pull_request(TOPIC, 99), 29, "queueId[99] is illegal".to_owned()),
        (pull_request(TOPIC, -1), 29, "queueId[-1] is illegal".to_owned()),
        (
            send_request(TOPIC, 0, too_long),
            13,
            format!("at most {MESSAGE_BYTES_MAX}"),
        ),
        (send_request("a topic", 0, &b"x"[..]), 29, "topic".to_owned()),
        (send_request(&"t".repeat(300), 0, &b"x"[..]), 29, "topic".to_owned()),
        (missing, 1, "malformed request".to_owned()),
        (
            RemotingCommand::request(PULL_MESSAGE),
            1,
            "malformed request".to_owned(),
        ),
        (
            pull_request(TOPIC, 0).with_field("queueOffset", "many"),
            1,
            "malformed request".to_owned(),
        ),
        // A heartbeat, a request for locks, a batch: what their bodies hold.
        (
            RemotingCommand::request(34).with_body(&b"{\"clientID\":"[..]),
            1,
            "malformed request".to_owned(),
        ),
        (
            RemotingCommand::request(41).with_body(&b"[[["[..]),
            1,
            "malformed request".to_owned(),
        ),
        (
            {
                let mut batch = send_request(TOPIC, 0, &b"\xff\xff\xff\xff no batch"[..]).with_field("batch", "true");
                batch.code = 320;
                batch
            },
            1,
            String::new(),
        ),
    ];
    let mut raw = Raw::connect(port)?;
    for (number, (request, code, says)) in requests.iter_mut().enumerate() {
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
            // Its codes have 16 bits.
            if encoding == HeaderEncoding::Binary && i16::try_from(request.code).is_err() {
                continue;
            }
            request.encoding = encoding;
            request.opaque = 1_000 + number as i32;
            let what = format!("request {number} of code {} in {encoding:?}", request.code);
            raw.ask(request).with_context(|| what.clone())?;
            let answer = raw.answer().with_context(|| what.clone())?;
            ensure!(
                answer.is_response() && answer.opaque == request.opaque && answer.encoding == encoding,
                "{what}: no answer to it: {answer:?}"
            );
            let remark = answer.remark.unwrap_or_default();
            ensure!(
                answer.code == *code && remark.contains(says.as_str()),
                "{what}: {} {remark}",
                answer.code
            );
        }
    }
    // One-way requests are never answered, whatever they ask for; the next one is.
    raw.ask(&RemotingCommand::request(9_999).mark_one_way())?;
    raw.ask(&RemotingCommand::request(9_998))?;
    let answer = raw.answer()?;
    ensure!(
        answer.remark.as_deref() == Some(" request type 9998 not supported"),
        "{answer:?}"
    );
    Ok(())
}

/// Frames that are begun and never ended, many at a time.
fn hold_half_sent_frames(ports: &[u16]) -> Result<Vec<Raw>> {
    let mut part = (ANNOUNCED as u32).to_be_bytes().to_vec();
    part.resize(SENT_OF_IT, 0);
    let part: &[u8] = &part;
    std::thread::scope(|scope| {
        let sending = (0..HALF_SENT).map(|number| {
            let port = ports[number % ports.len()];
            scope.spawn(move || {
                let mut raw = Raw::connect(port)?;
                raw.set_write_patience(Duration::from_secs(1))?;
                // Most are not read on, for want of room: their clients wait.
                let _ = raw.send(part);
                Ok(raw)
            })
        });
        let sending: Vec<_> = sending.collect();
        sending
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

/// The hello of a process that wants to make calls.
fn hello(cluster: [u8; 16], version: u16, purpose: u8, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_slice(b"FLTP");
    out.put_u16(version);
    out.put_u8(purpose);
    out.put_slice(&cluster);
    out.put_slice(&[0; 12]);
    out.put_u64(0);
    for name in [from, to] {
        out.put_u8(name.len() as u8);
        out.put_slice(name);
    }
    out.to_vec()
}

const CALLS: u8 = 16;
const VERSION: u16 = 1;

/// One call: kind, number, time left, payload.
fn call(kind: u8, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u32((13 + payload.len()) as u32);
    out.put_u8(kind);
    out.put_u64(number);
    out.put_u32(5_000);
    out.put_slice(payload);
    out.to_vec()
}

/// A connection for calls, let in.
fn caller(port: u16, cluster: [u8; 16], from: &str, to: &str) -> Result<Raw> {
    let mut raw = Raw::connect(port)?;
    ensure!(
        raw.send(&hello(cluster, VERSION, CALLS, from.as_bytes(), to.as_bytes()))?,
        "closed"
    );
    let welcome = raw.exactly(2)?;
    ensure!(welcome == [0, 0], "not let in: {welcome:?}");
    Ok(raw)
}

/// Status and payload of the next answer to a call.
fn call_answer(raw: &mut Raw) -> Result<(u8, u64, Vec<u8>)> {
    let length = u32::from_be_bytes(raw.exactly(4)?.try_into().expect("four bytes"));
    let frame = raw.exactly(length as usize)?;
    ensure!(frame.len() >= 9, "an answer without a head");
    let number = u64::from_be_bytes(frame[1..9].try_into().expect("eight bytes"));
    Ok((frame[0], number, frame[9..].to_vec()))
}

/// The port between processes: who is no peer is told so, or cut off; a peer that writes nonsense is answered or cut
/// off.
fn survives_strange_peers(port: u16, cluster: [u8; 16], name: &str, random: &mut SmallRng) -> Result<()> {
    let refused = |what: &str, hello: &[u8], says: &str| -> Result<()> {
        let (answer, end) = converse(port, hello, PATIENCE).with_context(|| what.to_owned())?;
        let text = String::from_utf8_lossy(answer.get(2..).unwrap_or_default());
        ensure!(
            end == End::Closed && answer.first().is_some_and(|status| *status != 0) && text.contains(says),
            "{what}: {end:?} after {answer:?}"
        );
        Ok(())
    };
    let (own, stranger) = (name.as_bytes(), [0xfe; 16]);
    refused("HTTP", b"GET / HTTP/1.1\r\n\r\n", "not a peer")?;
    refused(
        "another version",
        &hello(cluster, 999, CALLS, own, own),
        "another version",
    )?;
    refused(
        "an unknown purpose",
        &hello(cluster, VERSION, 99, own, own),
        "another version",
    )?;
    refused(
        "another cluster",
        &hello(stranger, VERSION, CALLS, own, own),
        "another cluster",
    )?;
    refused(
        "another name",
        &hello(cluster, VERSION, CALLS, own, b"n77"),
        "another node",
    )?;
    refused(
        "a Raft group that nobody has",
        &hello(cluster, VERSION, 0, own, own),
        "",
    )?;

    let (answer, end) = converse(port, &hello(cluster, VERSION, CALLS, b"\xff\xfe", own), PATIENCE)?;
    ensure!(
        answer.is_empty() && end == End::Closed,
        "a name that is no text: {answer:?}"
    );
    let whole = hello(cluster, VERSION, CALLS, own, own);
    for length in [0, 3, 4, 5, 30, whole.len() - 1] {
        let (answer, end) = converse_and_finish(port, &whole[..length])?;
        ensure!(
            answer.is_empty() && end == End::Closed,
            "a hello cut at {length}: {answer:?}"
        );
    }
    let (_, end) = converse(port, &whole[..20], INTRODUCED_WITHIN)?;
    ensure!(end == End::Closed, "one that does not finish its hello is kept");

    let mut raw = caller(port, cluster, name, name)?;
    ensure!(raw.send(&[0xff; 64])?, "closed");
    let (answer, end) = raw.rest(PATIENCE)?;
    ensure!(answer.is_empty() && end == End::Closed, "a frame of 4 GiB: {end:?}");

    let mut raw = caller(port, cluster, name, name)?;
    // Frames without a head are nothing; a cancellation of nothing is.
    raw.send(&[0, 0, 0, 0, 0, 0, 0, 1, 7])?;
    raw.send(&[0, 0, 0, 9, 255, 1, 2, 3, 4, 5, 6, 7, 8])?;
    for (number, kind) in [0, 2, 3, 77, 254].into_iter().enumerate() {
        for size in [0, 1, 2, 20, 1_000] {
            let mut garbage = vec![0; size];
            random.fill_bytes(&mut garbage);
            let number = (number * 10_000 + size) as u64;
            raw.send(&call(kind, number, &garbage))?;
            let (_, answered, _) = call_answer(&mut raw).with_context(|| format!("call {kind} of {size} bytes"))?;
            ensure!(answered == number, "the answer to another call");
        }
    }
    let (status, _, text) = {
        raw.send(&call(77, 1, b"x"))?;
        call_answer(&mut raw)?
    };
    ensure!(
        status == 1 && String::from_utf8_lossy(&text).contains("unknown kind"),
        "{}",
        String::from_utf8_lossy(&text)
    );
    Ok(())
}

/// The admin API's port.
fn survives_strange_http(port: u16) -> Result<()> {
    let large = "x".repeat(1 << 20);
    let requests: [(&str, Vec<u8>); 8] = [
        ("no HTTP", b"\0\x01\x02\xff\xfe\r\n\r\n".to_vec()),
        ("no version", b"GET /healthz\r\n\r\n".to_vec()),
        (
            "a header of 1 MiB",
            format!("GET /healthz HTTP/1.1\r\nx: {large}\r\n\r\n").into_bytes(),
        ),
        ("a path of 1 MiB", format!("GET /{large} HTTP/1.1\r\n\r\n").into_bytes()),
        (
            "2,000 headers",
            format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(2_000)).into_bytes(),
        ),
        (
            "a length that is no number",
            b"POST /v1/topics/t/messages HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n{}".to_vec(),
        ),
        (
            "a body over the limit",
            b"POST /v1/topics/t/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{".to_vec(),
        ),
        (
            "chunks that are none",
            b"POST /v1/topics/t/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}".to_vec(),
        ),
    ];
    for (what, request) in requests {
        let (answer, end) = converse_and_finish(port, &request).with_context(|| what.to_owned())?;
        let status = String::from_utf8_lossy(&answer).get(..12).map(str::to_owned);
        // A client that sends too much may have its connection reset before it reads why.
        ensure!(
            end == End::Closed && status.as_deref().is_none_or(|status| status.starts_with("HTTP/1.1 4")),
            "{what}: {end:?} after {status:?}"
        );
    }
    Ok(())
}

fn dump(cluster: &Cluster) -> Result<Dump> {
    cluster.client(0)?.dump(TOPIC, QUEUES)
}

/// One who does everything right is served as ever.
fn a_good_client_is_served(cluster: &Cluster, kept: &Dump, after: &str) -> Result<()> {
    let now = dump(cluster).with_context(|| format!("after {after}"))?;
    ensure!(now == *kept, "after {after}: {now:?} is not {kept:?}");
    Ok(())
}

fn cluster_id(cluster: &Cluster) -> Result<[u8; 16]> {
    let label = std::fs::read(cluster.nodes()[0].data().join("volume.json"))?;
    let label: Value = serde_json::from_slice(&label)?;
    let id = label["cluster"]["id"].as_str().context("the cluster's id")?;
    Ok(u128::from_str_radix(id, 16)?.to_be_bytes())
}

#[test]
fn bad_bytes_cost_their_own_connection_and_nothing_else() {
    let cluster = Cluster::start(1).expect("start");
    let (node, controller) = (cluster.nodes()[0].ports, cluster.controllers()[0].ports);
    let usages = ["n1", "c1"].map(|name| Usage::of(&cluster, name).expect("the process"));
    let id = cluster_id(&cluster).expect("the cluster");
    cluster.http(0).create_topic(TOPIC, QUEUES).expect("topic");
    let mut good = cluster.client(0).expect("connect");
    for queue in 0..QUEUES {
        for number in 0..MESSAGES {
            assert_eq!(
                good.send(TOPIC, queue, &format!("kept {number}")).expect("send"),
                number
            );
        }
    }
    let kept = dump(&cluster).expect("read");
    let before = usages.map(|usage| usage.resident_bytes().expect("memory"));
    for usage in usages {
        usage.forget_peak().expect("peak");
    }

    let mut random = SmallRng::seed_from_u64(20_261_121);
    let remoting = [
        node.remoting,
        node.remoting - 2,
        node.name_server,
        controller.name_server,
    ];
    for port in remoting {
        closes_on_what_is_no_frame(port, &mut random).unwrap_or_else(|error| panic!("port {port}: {error:#}"));
    }
    a_good_client_is_served(&cluster, &kept, "what is no frame").expect("served");
    for port in remoting {
        ignores_what_is_cut_short(port).unwrap_or_else(|error| panic!("port {port}: {error:#}"));
    }
    a_good_client_is_served(&cluster, &kept, "frames cut short").expect("served");
    for port in remoting {
        answers_what_cannot_be_done(port).unwrap_or_else(|error| panic!("port {port}: {error:#}"));
    }
    a_good_client_is_served(&cluster, &kept, "impossible requests").expect("served");
    for (port, name, cluster) in [(node.peer, "n1", id), (controller.controller, "c1", id)] {
        survives_strange_peers(port, cluster, name, &mut random)
            .unwrap_or_else(|error| panic!("port {port} of {name}: {error:#}"));
    }
    a_good_client_is_served(&cluster, &kept, "strange peers").expect("served");
    for port in [node.http, controller.http] {
        survives_strange_http(port).unwrap_or_else(|error| panic!("port {port}: {error:#}"));
    }
    a_good_client_is_served(&cluster, &kept, "strange HTTP").expect("served");

    let held = hold_half_sent_frames(&remoting[..3]).expect("half-sent frames");
    a_good_client_is_served(&cluster, &kept, "half-sent frames").expect("served beside them");
    drop(held);

    for queue in 0..QUEUES {
        assert_eq!(good.send(TOPIC, queue, "and on it goes").expect("send"), MESSAGES);
        let read = good.pull(TOPIC, queue, MESSAGES).expect("pull");
        assert_eq!(read, [(MESSAGES, "and on it goes".to_owned())]);
    }
    for (usage, (name, before)) in usages.into_iter().zip(["n1", "c1"].into_iter().zip(before)) {
        assert!(usage.is_alive(), "{name} ended");
        let peak = usage.peak_bytes().expect("memory");
        progress::line(format!("{name}: {} before, {} at most", mib(before), mib(peak)));
        assert!(
            peak <= before + MEMORY_GROWTH_MAX,
            "{name} grew from {} to {}",
            mib(before),
            mib(peak)
        );
    }
}
