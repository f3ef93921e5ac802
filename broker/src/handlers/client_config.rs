//! CHECK_CLIENT_CONFIG: whether a consumer's filter can be served, asked once before it starts.

use flotilla_api::remoting::bodies::CheckClientRequest;
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;

use crate::error::Failure;

/// What is said about every filter that is not a tag expression.
pub fn no_sql92() -> Failure {
    Failure::answer(
        response::SYSTEM_ERROR,
        "The broker does not support consumer to filter message by SQL92",
    )
}

/// Code 0 for tag filters, 1 for others.
pub fn check(request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let body = CheckClientRequest::from_bytes(&request.body)?;
    if body.subscription_data.is_tag() {
        Ok(RemotingCommand::response(request, response::SUCCESS))
    } else {
        Err(no_sql92())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &'static str) -> i32 {
        let request = RemotingCommand::request(46).with_body(body.as_bytes());
        check(&request).map_or_else(|failure| failure.code_and_remark().0, |answer| answer.code)
    }

    #[test]
    fn tags_pass_and_sql_does_not() {
        assert_eq!(
            answer(r#"{"clientId":"c","group":"G","subscriptionData":{"expressionType":"TAG"}}"#),
            0
        );
        assert_eq!(answer(r#"{"subscriptionData":{}}"#), 0);
        assert_eq!(
            answer(r#"{"subscriptionData":{"expressionType":"SQL92","subString":"a > 1"}}"#),
            1
        );
        assert_eq!(answer("not json"), 1);
    }
}
