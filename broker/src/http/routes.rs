//! Paths to operations.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use flotilla_api::http::{LeaderChange, MoveTarget, NewMember, RebalanceRequest};
use serde::de::DeserializeOwned;

use super::answer::Answer;
use super::execute::execute;
use super::operation::{MoveWish, Operation, Selection};
use super::problem::Problem;
use super::{HTTP_BODY_BYTES_MAX, Stage, limits, messages, metrics, openapi};
use crate::node::Broker;

type Outcome = Result<Answer, Problem>;

/// All paths.
pub fn router(stage: Stage) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/openapi.json", get(openapi::document))
        .route("/v1/cluster", get(|stage| run(stage, Operation::Cluster)))
        .route("/v1/groups", get(|stage| run(stage, Operation::Groups)))
        .route(
            "/v1/groups/{group}",
            get(|stage, Named(group)| run(stage, Operation::Group { group })),
        )
        .route(
            "/v1/groups/{group}/digest",
            post(|stage, Named(group)| run(stage, Operation::Digest { group })),
        )
        .route("/v1/groups/{group}/leader", post(transfer_leader))
        .route("/v1/groups/{group}/members", post(add_member))
        .route("/v1/groups/{group}/members/{node}", delete(remove_member))
        .route("/v1/nodes", get(|stage| run(stage, Operation::Nodes)))
        .route(
            "/v1/nodes/{node}",
            get(|stage, Named(node)| run(stage, Operation::Node { node }))
                .delete(|stage, Named(node)| run(stage, Operation::RemoveNode { node })),
        )
        .route(
            "/v1/nodes/{node}/evacuate",
            post(|stage, Named(node)| run(stage, Operation::Evacuate { node, evacuating: true })),
        )
        .route(
            "/v1/nodes/{node}/reopen",
            post(|stage, Named(node)| {
                run(
                    stage,
                    Operation::Evacuate {
                        node,
                        evacuating: false,
                    },
                )
            }),
        )
        .route(
            "/v1/groups/{group}/drain",
            post(|stage, Named(group)| run(stage, Operation::Drain { group })),
        )
        .route(
            "/v1/groups/{group}/reopen",
            post(|stage, Named(group)| run(stage, Operation::Reopen { group })),
        )
        .route("/v1/moves", get(|stage| run(stage, Operation::Moves)))
        .route("/v1/moves/{id}", get(find_move))
        .route("/v1/rebalance", post(rebalance))
        .route("/v1/topics", get(|stage| run(stage, Operation::Topics)))
        .route(
            "/v1/topics/{topic}",
            get(|stage, Named(topic)| run(stage, Operation::Topic { topic }))
                .put(put_topic)
                .delete(|stage, Named(topic)| run(stage, Operation::DeleteTopic { topic })),
        )
        .route(
            "/v1/topics/{topic}/queues",
            get(|stage, Named(topic)| run(stage, Operation::Queues { topic })),
        )
        .route("/v1/topics/{topic}/queues/{queue}/move", post(move_queue))
        .route("/v1/topics/{topic}/messages", post(send))
        .route(
            "/v1/consumer-groups",
            get(|stage| run(stage, Operation::ConsumerGroups)),
        )
        .route(
            "/v1/consumer-groups/{group}",
            get(|stage, Named(consumer_group)| run(stage, Operation::ConsumerGroup { consumer_group })),
        )
        .route("/v1/messages", get(find_messages))
        .fallback(|| async { Problem::not_found("no such path: see /openapi.json") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has other methods: see /openapi.json",
            )
        })
        .layer(DefaultBodyLimit::max(HTTP_BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(
            limits::large_bodies(),
            limits::one_of_few,
        ))
        .with_state(stage)
}

/// The name in a path.
struct Named(String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()).refused())?;
        Ok(Self(name))
    }
}

/// Two names in a path, or a name and a number: a topic and one of its queues, a Raft group and a node.
struct NamedPair<B>(String, B);

impl<S: Send + Sync, B: DeserializeOwned + Send> FromRequestParts<S> for NamedPair<B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((first, second)) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()).refused())?;
        Ok(Self(first, second))
    }
}

fn broker(stage: &Stage) -> Result<&Arc<Broker>, Problem> {
    stage
        .get()
        .ok_or_else(|| Problem::unavailable("this node is starting").refused())
}

async fn run(State(stage): State<Stage>, operation: Operation) -> Outcome {
    execute(broker(&stage)?, operation).await
}

/// Ready to take clients. A cluster without a quorum is ready, too: it answers what it can. A controller, which is no
/// node and says nothing about itself to them, is ready as soon as it passes requests on.
async fn readyz(State(stage): State<Stage>) -> Response {
    let ready = stage.get().is_some_and(|broker| {
        let here = broker.peers.node(&broker.node);
        let said = here.and_then(|node| node.info);
        said.is_none_or(|info| info.ready && !info.leaving)
    });
    if ready {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
}

async fn scrape(State(stage): State<Stage>) -> Result<Response, Problem> {
    let text = metrics::render(broker(&stage)?)?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

async fn transfer_leader(stage: State<Stage>, Named(group): Named, body: Result<Bytes, BytesRejection>) -> Outcome {
    let LeaderChange { node } = parse(body)?;
    run(stage, Operation::TransferLeader { group, node }).await
}

async fn add_member(stage: State<Stage>, Named(group): Named, body: Result<Bytes, BytesRejection>) -> Outcome {
    let NewMember { node, replaces } = parse(body)?;
    run(stage, Operation::AddMember { group, node, replaces }).await
}

async fn remove_member(stage: State<Stage>, NamedPair(group, node): NamedPair<String>) -> Outcome {
    run(stage, Operation::RemoveMember { group, node }).await
}

async fn find_move(stage: State<Stage>, Named(id): Named) -> Outcome {
    let id = id
        .parse()
        .map_err(|_| Problem::malformed(format!("`{id}` is not the number of a move")))?;
    run(stage, Operation::Move { id }).await
}

async fn rebalance(stage: State<Stage>, body: Result<Bytes, BytesRejection>) -> Outcome {
    let RebalanceRequest { dry_run } = match body {
        Ok(bytes) if bytes.is_empty() => Default::default(),
        body => parse(body)?,
    };
    run(stage, Operation::Rebalance { dry_run }).await
}

async fn move_queue(
    stage: State<Stage>,
    NamedPair(topic, queue): NamedPair<u32>,
    wish: Result<Query<MoveWish>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Outcome {
    let Query(wish) = wish.map_err(|rejection| Problem::malformed(rejection.body_text()).refused())?;
    let MoveTarget { group } = parse(body)?;
    let wait = wish.wait()?;
    let operation = Operation::MoveQueue {
        topic,
        queue,
        group,
        wait,
    };
    run(stage, operation).await
}

async fn put_topic(stage: State<Stage>, Named(topic): Named, body: Result<Bytes, BytesRejection>) -> Outcome {
    let settings = match body {
        Ok(bytes) if bytes.is_empty() => Default::default(),
        body => parse(body)?,
    };
    run(stage, Operation::PutTopic { topic, settings }).await
}

async fn send(State(stage): State<Stage>, Named(topic): Named, body: Result<Bytes, BytesRejection>) -> Outcome {
    messages::send(broker(&stage)?, &topic, parse(body)?).await
}

async fn find_messages(stage: State<Stage>, selection: Result<Query<Selection>, QueryRejection>) -> Outcome {
    let Query(selection) = selection.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    run(stage, Operation::Messages { selection }).await
}

/// Reads a JSON body; whatever is wrong with it, nothing was done.
fn parse<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let bytes = body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()).refused())?;
    // Else an array would be read as the fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::malformed("body: not a JSON object").refused());
    }
    serde_json::from_slice(&bytes).map_err(|error| Problem::malformed(format!("body: {error}")).refused())
}
