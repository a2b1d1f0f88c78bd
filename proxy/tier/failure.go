package tier

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/aws/smithy-go"
)

// Why a request is ended.
var (
	errSilent  = errors.New("it does not answer")
	errStalled = errors.New("it sends or takes nothing any more")
	errSlow    = errors.New("it is too slow to be waited for")
)

// failure is why the bucket did not do what it was asked, in words for an operator.
type failure struct {
	what   string
	whole  bool // it concerns the whole bucket, and not one object
	silent bool // nothing came
	code   string
	status int // of HTTP; 0 where no answer came
	cause  error
}

func (f *failure) Error() string { return f.what }
func (f *failure) Unwrap() error { return f.cause }

// Timeout implements what cache.Source asks of its errors.
func (f *failure) Timeout() bool { return f.silent }

// known are the answers of S3 that an operator can do something about; each concerns
// the whole bucket.
var known = map[string]string{ //nolint:gosec // it names secrets, and holds none
	"NoSuchBucket":                 "the bucket does not exist: create it, or correct HUBCAP_S3_URL",
	"InvalidBucketName":            "this is no name of a bucket: correct HUBCAP_S3_URL",
	"AccessDenied":                 "it denies access: the keys need s3:GetObject and s3:ListBucket, and s3:PutObject and s3:AbortMultipartUpload to write",
	"InvalidAccessKeyId":           "it does not know the access key: correct HUBCAP_S3_ACCESS_KEY",
	"XAdminUserNotFound":           "it does not know the access key: correct HUBCAP_S3_ACCESS_KEY", // versitygw
	"SignatureDoesNotMatch":        "the secret key is not that of the access key: correct HUBCAP_S3_SECRET_KEY",
	"InvalidToken":                 "it refuses the session token of the AWS credentials",
	"ExpiredToken":                 "the AWS credentials have expired",
	"RequestTimeTooSkewed":         "its clock and this machine's differ too much: correct this machine's",
	"AuthorizationHeaderMalformed": "it expects another region: correct HUBCAP_S3_REGION",
	"PermanentRedirect":            "the bucket is at another address or in another region: correct HUBCAP_S3_URL and HUBCAP_S3_REGION",
}

// full are the answers of stores that take no more.
var full = []string{"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "EntityTooLarge", "QuotaExceededException"}

// explain returns an error of the client as a failure.
func explain(err error) *failure {
	f := &failure{cause: err}
	if already, ok := errors.AsType[*failure](err); ok {
		return already
	}
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		f.status = answer.HTTPStatusCode()
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		f.code = api.ErrorCode()
	}
	switch {
	case errors.Is(err, errSilent), errors.Is(err, errStalled):
		f.silent, f.whole = true, errors.Is(err, errSilent)
		f.what = err.Error()
	case errors.Is(err, errSlow):
		f.what = errSlow.Error()
	case errors.Is(err, errNoKeys):
		f.what, f.whole = "no keys: set HUBCAP_S3_ACCESS_KEY and HUBCAP_S3_SECRET_KEY, or what the AWS SDK reads", true
	case f.status != 0:
		f.answered()
	default:
		f.unanswered()
	}
	return f
}

// answered explains an answer of HTTP.
func (f *failure) answered() {
	status := fmt.Sprintf("%d %s", f.status, http.StatusText(f.status))
	if f.code != "" && !strings.EqualFold(f.code, "UnknownError") {
		status = fmt.Sprintf("%d %.60s", f.status, f.code)
	}
	text, ok := known[f.code]
	switch {
	case ok:
		f.what, f.whole = fmt.Sprintf("%s (%s)", text, status), true
	case f.status == http.StatusInsufficientStorage || slices.Contains(full, f.code):
		f.what = fmt.Sprintf("it is full (%s)", status)
	case f.status == http.StatusServiceUnavailable || f.status == http.StatusTooManyRequests:
		f.what = fmt.Sprintf("it has too much to do (%s)", status)
	default:
		f.what = "it answers " + status
		f.whole = f.status < http.StatusInternalServerError // what it says of an object is known
	}
}

// unanswered explains that there was no answer, or not all of it.
func (f *failure) unanswered() {
	op, dialed := errors.AsType[*net.OpError](f.cause)
	_, certificate := errors.AsType[*tls.CertificateVerificationError](f.cause)
	switch {
	case dialed && op.Op == "dial", dialed && op.Op == "proxyconnect":
		f.what, f.whole = fmt.Sprintf("it cannot be reached: %.200s", innermost(op)), true
	case certificate:
		f.what, f.whole = fmt.Sprintf("its certificate is not trusted: %.200s; HUBCAP_CA_FILE adds authorities", innermost(f.cause)), true
	case errors.Is(f.cause, io.ErrUnexpectedEOF):
		f.what = "its answer breaks off"
	default:
		f.what = fmt.Sprintf("the connection failed: %.200s", innermost(f.cause))
	}
}

// innermost returns the error that err wraps innermost.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// isAbsent reports whether the answer to a GET is that there is no such object. Any other
// 404 is of a server that is not S3, or of one that does not know the keys.
func isAbsent(err error) bool { return explain(err).code == "NoSuchKey" }

// isPresent reports whether the answer to a conditional write is that there is such an
// object, or that another box is writing it.
func isPresent(err error) bool {
	f := explain(err)
	return f.status == http.StatusPreconditionFailed || f.status == http.StatusConflict
}

// isUnknown reports whether the server does not know what it was asked for.
func isUnknown(err error) bool {
	f := explain(err)
	return f.status == http.StatusNotImplemented || f.code == "NotImplemented"
}
