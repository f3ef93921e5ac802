use super::super::headers::send::SendMessageHeader;
use super::*;
use proptest::prelude::*;

fn bytes_of(hex: &str) -> BytesMut {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
        .collect()
}

fn json_frame(header: &str, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32((4 + header.len() + body.len()) as u32);
    out.put_u32(header.len() as u32);
    out.put_slice(header.as_bytes());
    out.put_slice(body);
    out
}

fn read(mut buffer: BytesMut) -> RemotingCommand {
    let command = decode(&mut buffer).expect("decodes").expect("is whole");
    assert!(buffer.is_empty());
    command
}

fn written(command: &RemotingCommand) -> BytesMut {
    let mut out = BytesMut::new();
    command.encode(&mut out);
    out
}

fn route_request() -> RemotingCommand {
    let mut command = RemotingCommand::request(105)
        .with_field("topic", "T")
        .with_field("acceptStandardJsonOnly", "true");
    command.opaque = 7;
    command
}

const ROUTE_JSON: &str = "{\"code\":105,\"extFields\":{\"topic\":\"T\",\"acceptStandardJsonOnly\":\"true\"},\"flag\":0,\
    \"language\":\"JAVA\",\"opaque\":7,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}";

#[test]
fn request_of_the_official_encoder_in_json() {
    let frame = json_frame(ROUTE_JSON, b"");
    assert_eq!(frame[..8], bytes_of("0000009f 0000009b")[..]);
    assert_eq!(written(&route_request()), frame);
    assert_eq!(read(frame), route_request());
}

#[test]
fn response_of_the_official_encoder_in_json() {
    let response = RemotingCommand::response(&route_request(), 0).with_body(&b"{}"[..]);
    let header = "{\"code\":0,\"flag\":1,\"language\":\"JAVA\",\"opaque\":7,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}";
    let frame = json_frame(header, b"{}");
    assert_eq!(frame[..8], bytes_of("00000065 0000005f")[..]);
    assert_eq!(written(&response), frame);
    assert_eq!(read(frame), response);
}

#[test]
fn request_of_the_official_encoder_in_binary() {
    let frame = bytes_of(
        "00000045 01000041 0069 00 01df 00000007 00000000 00000000 0000002c 0005 746f706963 00000001 54
         0016 6163636570745374616e646172644a736f6e4f6e6c79 00000004 74727565",
    );
    let mut request = route_request();
    request.encoding = HeaderEncoding::Binary;
    assert_eq!(written(&request), frame);
    assert_eq!(read(frame), request);
    assert_eq!(RemotingCommand::response(&request, 17).encoding, HeaderEncoding::Binary);
}

#[test]
fn send_of_the_official_client() {
    let header = "{\"code\":310,\"extFields\":{\"a\":\"PG\",\"b\":\"T\",\"c\":\"TBW102\",\"d\":\"4\",\"e\":\"1\",\"f\":\"0\",\
        \"g\":\"1\",\"h\":\"0\",\"i\":\"UNIQ_KEY\\u0001X\\u0002TAGS\\u0001A\\u0002\",\"j\":\"0\",\"k\":\"false\",\"m\":\"false\",\
        \"n\":\"broker-a\"},\"flag\":0,\"language\":\"JAVA\",\"opaque\":1,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}";
    let command = read(json_frame(header, b"Hi"));
    let send = SendMessageHeader::decode(&command.fields, true).expect("decodes");
    assert_eq!(send.properties, Some("UNIQ_KEY\u{1}X\u{2}TAGS\u{1}A\u{2}"));
    assert_eq!((command.code, &command.body[..]), (310, &b"Hi"[..]));
    assert_eq!(written(&command), json_frame(header, b"Hi"));
}

#[test]
fn what_other_clients_write_is_read() {
    // Any order, unknown keys, nested values, unquoted numbers and truth values, a null remark, a newline at the end.
    let header = "{ \"extFields\" : {\"queueId\":3,\"ok\":true,\"no\":null,\"deep\":{\"a\":[1,{}]},\"x\":-5.5},\n\
        \"remark\":null,\"flag\":\"0\",\"unknown\":[{\"a\":\"]\"}],\"version\":333,\"language\":\"COBOL\",\"code\":\"310\",\"opaque\":-3}\n";
    let command = read(json_frame(header, b""));
    assert_eq!(
        (command.code, command.version, command.opaque, command.flag),
        (310, 333, -3, 0)
    );
    assert_eq!((command.language, &command.remark), (language::OTHER, &None));
    assert_eq!(
        (
            command.fields.i32("queueId"),
            command.fields.bool("ok"),
            command.fields.get("no")
        ),
        (Some(3), Some(true), None)
    );
    assert_eq!(
        (command.fields.get("deep"), command.fields.get("x")),
        (Some("{\"a\":[1,{}]}"), Some("-5.5"))
    );

    let escapes = r#"{"code":1,"remark":"a\"b\\c\/d\n\u00e9\ud83d\ude00\ud83dx","extFields":{"\u0061":"é"}}"#;
    let command = read(json_frame(escapes, b""));
    assert_eq!(command.remark.as_deref(), Some("a\"b\\c/d\né\u{1F600}\u{FFFD}x"));
    assert_eq!(command.fields.get("a"), Some("é"));
    assert_eq!(read(json_frame("{}", b"")).code, 0);
    assert_eq!(read(json_frame("{\"extFields\":null}", b"")).fields.len(), 0);
}

#[test]
fn unknown_codes_survive_both_encodings() {
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        let mut command = RemotingCommand::request(31_234).with_remark("why").with_field("k", "v");
        command.encoding = encoding;
        assert_eq!(read(written(&command)), command);
    }
    let mut pop = RemotingCommand::request(200_050);
    pop.encoding = HeaderEncoding::Binary;
    assert_eq!(read(written(&pop)).code, 3442);
}

#[test]
fn partial_frames_wait_and_several_frames_follow_each_other() {
    let frame = written(&route_request().with_body(&b"body"[..]));
    let mut buffer = BytesMut::new();
    for byte in &frame[..frame.len() - 1] {
        buffer.put_u8(*byte);
        assert_eq!(decode(&mut buffer), Ok(None));
    }
    buffer.put_u8(frame[frame.len() - 1]);
    buffer.put_slice(&frame);
    for _ in 0..2 {
        assert_eq!(
            decode(&mut buffer).expect("decodes").expect("is whole").body[..],
            b"body"[..]
        );
    }
    assert_eq!(decode(&mut buffer), Ok(None));
}

#[test]
fn what_cannot_be_a_frame_is_an_error() {
    for (hex, error) in [
        ("00000003 000000", FrameError::Lengths),
        ("01000001 00000000", FrameError::TooLong(0x0100_0005)),
        ("ffffffff 00000000", FrameError::TooLong(0x1_0000_0003)),
        ("00000004 00000001", FrameError::Lengths),
        ("00000004 02000000", FrameError::Encoding(2)),
        ("00000004 00000000", FrameError::Header(0)),
        ("00000004 01000000", FrameError::Header(0)),
    ] {
        assert_eq!(decode(&mut bytes_of(hex)), Err(error), "{hex}");
    }
    for header in [
        "{",
        "{\"code\":1",
        "{\"code\":}",
        "{\"code\":\"x\"}",
        "{\"a\"}",
        "[]",
        "{\"a\":\"\\",
        "{\"extFields\":{\"a\":}}",
    ] {
        assert!(
            matches!(decode(&mut json_frame(header, b"")), Err(FrameError::Header(_))),
            "{header}"
        );
    }
    let nested = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(
        decode(&mut json_frame(&nested, b"")),
        Err(FrameError::Header(_))
    ));
    let fields = format!("{{\"extFields\":{{{}\"z\":1}}}}", "\"k\":1,".repeat(EXT_FIELDS_MAX));
    assert_eq!(decode(&mut json_frame(&fields, b"")), Err(FrameError::TooManyFields));
}

#[test]
fn a_half_received_frame_does_not_reserve_what_it_announces() {
    let mut buffer = bytes_of("00fffffc 00000000");
    assert_eq!(decode(&mut buffer), Ok(None));
    assert!(buffer.capacity() <= 2 * FRAME_RESERVE_BYTES_MAX);
}

#[test]
fn flags() {
    let request = RemotingCommand::request(15).mark_one_way();
    assert!(request.is_one_way() && !request.is_response());
    assert!(RemotingCommand::response(&request, 0).is_response());
}

proptest! {
    #[test]
    fn decode_of_encode(
        code in 0..i32::from(i16::MAX), opaque in any::<i32>(), binary in any::<bool>(), remark in prop::option::of("\\PC{1,20}"),
        fields in prop::collection::vec(("\\PC{1,8}", ".{1,12}"), 0..10), body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut command = RemotingCommand::request(code).with_body(body);
        command.opaque = opaque;
        command.remark = remark;
        command.fields = fields.into_iter().collect();
        command.encoding = if binary { HeaderEncoding::Binary } else { HeaderEncoding::Json };
        prop_assert_eq!(read(written(&command)), command);
    }

    #[test]
    fn any_header_is_read(header in prop::collection::vec(any::<u8>(), 0..120), kind in 0u32..3, body in 0usize..20) {
        let mut frame = BytesMut::new();
        frame.put_u32((4 + header.len() + body) as u32);
        frame.put_u32((kind << 24) | header.len() as u32);
        frame.put_slice(&header);
        frame.put_bytes(0, body);
        let _ = decode(&mut frame);
    }
}
