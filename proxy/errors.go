package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"hubcap/cache"
	"hubcap/proxy/access"
	"hubcap/proxy/advice"
	"hubcap/proxy/pull"
	"hubcap/proxy/upstream"
)

// apiError is an error as the client sees it: a status, an error code of the OCI
// distribution specification and a text that quotes nothing of the request. The
// cause is only in the log.
type apiError struct {
	status  int
	code    string
	message string
	result  result
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func refuse(status int, code, message string) *apiError {
	return &apiError{status, code, message, resultRefused}
}

// Errors that need no upstream.
var (
	errNoRoute          = refuse(http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	errAbsolute         = refuse(http.StatusBadRequest, "UNSUPPORTED", "this is no forward proxy")
	errMethod           = refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "this is a read-only mirror")
	errNameInvalid      = refuse(http.StatusBadRequest, "NAME_INVALID", "invalid repository name")
	errDigestInvalid    = refuse(http.StatusBadRequest, "DIGEST_INVALID", "invalid digest")
	errColonEncoded     = refuse(http.StatusBadRequest, "DIGEST_INVALID", "invalid digest: its colon must not be written as %3A")
	errPageInvalid      = refuse(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "invalid number of results requested")
	errUnknownRegistry  = refuse(http.StatusNotFound, "NAME_UNKNOWN", "this mirror does not serve that registry")
	errTwoRegistries    = refuse(http.StatusNotFound, "NAME_UNKNOWN", "the path and ns name different registries")
	errRepositoryDenied = refuse(http.StatusForbidden, "DENIED", "this mirror does not serve that repository")
	errRange            = refuse(http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", "invalid range")
	errManifestUnknown  = &apiError{http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown", resultNotFound}
)

// Errors caused by an upstream, the disk or a bug.
var (
	errBlobUnknown  = &apiError{http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry", resultNotFound}
	errUnauthorized = &apiError{http.StatusUnauthorized, "UNAUTHORIZED", "authentication required", resultRefused}
	errForbidden    = &apiError{http.StatusForbidden, "DENIED", "the registry does not let you in, or not through this mirror", resultRefused}
	errWithdrawn    = &apiError{http.StatusForbidden, "DENIED", "the registry has withdrawn it", resultRefused}
	errNameUnknown  = &apiError{http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry", resultNotFound}
	errLimited      = &apiError{http.StatusTooManyRequests, "TOOMANYREQUESTS", "the upstream registry's rate limit is reached", resultLimited}
	errUnreachable  = &apiError{http.StatusGatewayTimeout, "UNAVAILABLE", "the upstream registry does not answer", resultFailed}
	errUpstream     = &apiError{http.StatusBadGateway, "UNAVAILABLE", "the upstream registry failed", resultFailed}
	errContent      = &apiError{http.StatusBadGateway, "UNAVAILABLE", "the upstream registry sent wrong content", resultFailed}
	errSchema1      = &apiError{http.StatusBadGateway, "UNSUPPORTED", "the upstream registry has it as a manifest of Docker's schema 1, which this mirror does not pass on", resultFailed}
	errUnasked      = &apiError{http.StatusServiceUnavailable, "UNAVAILABLE", "the upstream registry is down; this mirror tries it again in a few seconds", resultFailed}
	errIncomplete   = &apiError{http.StatusServiceUnavailable, "UNAVAILABLE", "the upstream registry is down, and the image is not completely cached", resultFailed}
	errElsewhere    = refuse(http.StatusServiceUnavailable, "UNAVAILABLE", "this box has it from another one of its site, or may not show it to one; ask elsewhere")
	errUnheld       = refuse(http.StatusGatewayTimeout, "UNAVAILABLE", "it is not cached here, and only-if-cached forbids to ask for it")
	errLoop         = &apiError{http.StatusLoopDetected, "UNAVAILABLE", "this box has asked itself: its site's list has it under two names", resultFailed}
	errInternal     = &apiError{http.StatusInternalServerError, "UNAVAILABLE", "this mirror failed", resultFailed}
)

// notAllowed returns the error for a client outside the ranges that may pull.
func notAllowed(client netip.Addr) *apiError {
	return refuse(http.StatusForbidden, "DENIED", advice.ClientRefused(client))
}

// toAPI returns the client's view of an error, and the challenge if the client
// has to log in. It is the only place where errors become HTTP statuses.
func toAPI(err error, kind kind, view access.View) (api *apiError, challenge string) {
	var up *upstream.Error
	switch {
	case errors.As(err, &api):
	case errors.As(err, &up):
		api, challenge = fromUpstream(up, kind, view), up.Challenge
	case errors.Is(err, cache.ErrWrongContent):
		api = errContent
	case errors.Is(err, context.DeadlineExceeded):
		api = errUnreachable
	case errors.Is(err, cache.ErrSource):
		api = errUpstream
	default:
		api = errInternal
	}
	return api, challenge
}

// fromPull returns the apiError for the decisions of package pull, and any other
// error as it is.
func fromPull(err error, kind kind) error {
	switch {
	case errors.Is(err, pull.ErrDenied):
		return errRepositoryDenied
	case errors.Is(err, pull.ErrHidden):
		return unknown(kind)
	case errors.Is(err, pull.ErrIncomplete):
		return errIncomplete
	case errors.Is(err, pull.ErrUnheld):
		return errUnheld
	case errors.Is(err, pull.ErrElsewhere), errors.Is(err, cache.ErrFed):
		return errElsewhere
	default:
		return err
	}
}

// fromUpstream returns the apiError for an upstream's failure. Trouble never
// becomes 404. A mirror port never answers 401: dockerd would send its user's
// Docker Hub password.
func fromUpstream(e *upstream.Error, kind kind, view access.View) *apiError {
	switch e.Kind {
	case upstream.NotFound:
		return unknown(kind)
	case upstream.Withdrawn:
		return errWithdrawn
	case upstream.Denied:
		switch {
		case e.Challenge != "":
			return errUnauthorized
		case view == access.Own:
			return errForbidden
		case e.Credentials: // they are used for public content only, so it exists
			return errUpstream
		}
		return unknown(kind)
	case upstream.RateLimited:
		return errLimited
	case upstream.Unreachable:
		return errUnreachable
	case upstream.Unasked:
		return errUnasked
	case upstream.Invalid:
		if errors.Is(e, upstream.ErrSchema1) {
			return errSchema1
		}
		return errContent
	default:
		return errUpstream
	}
}

func unknown(kind kind) *apiError {
	switch kind {
	case kindBlob:
		return errBlobUnknown
	case kindManifest:
		return errManifestUnknown
	default:
		return errNameUnknown
	}
}

// body is the error in JSON (OCI distribution specification, "Error Codes").
func (e *apiError) body() []byte {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]one{"errors": {{e.code, e.message}}})
	if err != nil {
		panic(err) // two strings can always be encoded
	}
	return append(body, '\n')
}

// maxClientWait is the largest Retry-After that a client gets. Some clients would
// sleep for hours, and hubcap checks more often whether a limit has ended.
const maxClientWait = time.Minute

// retryAfter returns the Retry-After of an error, in seconds; "" for none.
func retryAfter(err error) string {
	var up *upstream.Error
	var own *overLimit
	switch {
	case errors.Is(err, errElsewhere):
		return "0"
	case errors.As(err, &own):
		return seconds(min(own.wait, maxClientWait))
	case errors.As(err, &up) && up.RetryAfter > 0:
		return seconds(min(up.RetryAfter, maxClientWait))
	}
	return ""
}

// seconds returns a duration in whole seconds, rounded up.
func seconds(d time.Duration) string { return strconv.FormatInt(int64(d.Seconds()+0.999), 10) }
