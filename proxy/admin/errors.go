package admin

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/bundle"
	"hubcap/proxy/freshness"
	"hubcap/proxy/jobs"
	"hubcap/proxy/outage"
	"hubcap/proxy/pins"
	"hubcap/proxy/pull"
	"hubcap/proxy/purge"
	"hubcap/proxy/warm"
)

func init() { huma.NewError, huma.DefaultArrayNullable = newError, false }

// newError makes the errors that huma finds: unknown fields, values that are not
// allowed. What the client sent is not repeated.
func newError(status int, detail string, errs ...error) huma.StatusError {
	e := api.Error{Status: status, Detail: detail}
	for _, err := range errs {
		if found, ok := err.(huma.ErrorDetailer); ok {
			d := found.ErrorDetail()
			e.Errors = append(e.Errors, api.FieldErrors{Location: d.Location, Message: d.Message})
		} else if err != nil {
			e.Errors = append(e.Errors, api.FieldErrors{Message: err.Error()})
		}
	}
	return filled(e)
}

// filled returns an error with what follows from its status.
func filled(e api.Error) *api.Error {
	e.Type = cmp.Or(e.Type, "about:blank")
	e.Title = cmp.Or(e.Title, http.StatusText(e.Status))
	return &e
}

// refusals are the errors of the rooms that an operator can do something about.
// Every other one is hubcap's own, 500.
var refusals = []struct {
	err    error
	status int
	kind   string // ends the type of the answer
	do     string
}{
	{warm.ErrUnknownRegistry, http.StatusNotFound, "unknown-registry", "add it as HUBCAP_UPSTREAM_<n>_HOST, if it is one"},
	{pull.ErrDenied, http.StatusForbidden, "denied", "HUBCAP_UPSTREAM_<n>_ALLOW and _DENY decide"},
	{pull.ErrHidden, http.StatusConflict, "passthrough", ""},
	{freshness.ErrPassthrough, http.StatusConflict, "passthrough", ""},
	{freshness.ErrUnknownTag, http.StatusNotFound, "unknown-tag", "pull it through this box, or warm it"},
	{freshness.ErrNotInHistory, http.StatusNotFound, "not-in-history", "image/history has the digests of the tag"},
	{freshness.ErrAmbiguous, http.StatusConflict, "ambiguous", "give more of the digest"},
	{freshness.ErrNotFrozen, http.StatusConflict, "not-frozen", ""},
	{freshness.ErrNotCooling, http.StatusConflict, "not-cooling", ""},
	{freshness.ErrNotHeld, http.StatusConflict, "not-held", ""},
	{freshness.ErrOrder, http.StatusUnprocessableEntity, "bad-order", ""},
	{freshness.ErrNotSaved, http.StatusInternalServerError, "not-saved", "check the disk; the log says more"},
	{pull.ErrPullsKept, http.StatusConflict, "pulls-kept", "wait, or allow more of the limit"},
	{warm.ErrNoPlatform, http.StatusUnprocessableEntity, "no-such-platform", ""},
	{warm.ErrNothing, http.StatusUnprocessableEntity, "no-image", ""},
	{warm.ErrEvery, http.StatusUnprocessableEntity, "too-often", ""},
	{warm.ErrTooManySchedules, http.StatusConflict, "too-many-schedules", "delete one"},
	{warm.ErrScheduleTooLong, http.StatusConflict, "list-too-long", ""},
	{warm.ErrUnknownSchedule, http.StatusNotFound, "unknown-schedule", ""},
	{warm.ErrNotHeld, http.StatusNotFound, "not-held", ""},
	{purge.ErrRequest, http.StatusBadRequest, "bad-purge", ""},
	{purge.ErrUnknown, http.StatusNotFound, "nothing-here", ""},
	{purge.ErrKept, http.StatusConflict, "kept", "unpin or thaw it, or use force"},
	{bundle.ErrShared, http.StatusConflict, "shared", "say include_shared, if whoever gets the bundle may have it"},
	{bundle.ErrNoBundle, http.StatusUnsupportedMediaType, "no-bundle", ""},
	{bundle.ErrBroken, http.StatusUnsupportedMediaType, "broken-bundle", "send it again"},
	{bundle.ErrNames, http.StatusUnprocessableEntity, "bad-name", ""},
	{bundle.ErrTooMany, http.StatusRequestEntityTooLarge, "bundle-too-large", "make several bundles"},
	{bundle.ErrNotStable, http.StatusConflict, "not-held", "begin again; a pin keeps an image from being evicted"},
	{pins.ErrRequest, http.StatusUnprocessableEntity, "bad-pin", ""},
	{pins.ErrNotPinned, http.StatusNotFound, "not-pinned", ""},
	{pins.ErrFromFile, http.StatusConflict, "pinned-in-file", "change the file"},
	{pins.ErrFrozen, http.StatusConflict, "pinned-by-freeze", "thaw the tag"},
	{pins.ErrTooLarge, http.StatusConflict, "too-large", "raise HUBCAP_MAX_BLOB or HUBCAP_CACHE_SIZE"},
	{outage.ErrConfigured, http.StatusConflict, "offline-by-configuration", ""},
	{outage.ErrDuration, http.StatusUnprocessableEntity, "bad-duration", ""},
	{jobs.ErrUnknown, http.StatusNotFound, "unknown-job", ""},
	{jobs.ErrGone, http.StatusGone, "job-gone", "begin it again"},
	{jobs.ErrOver, http.StatusConflict, "job-over", ""},
	{jobs.ErrTooMany, http.StatusServiceUnavailable, "too-many-jobs", "wait, or cancel some"},
	{jobs.ErrClosed, http.StatusServiceUnavailable, "shutting-down", ""},
}

// asError returns the answer for a room's error.
func asError(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return filled(*e)
	}
	for _, one := range refusals {
		if errors.Is(err, one.err) {
			return filled(api.Error{Type: "urn:hubcap:" + one.kind, Status: one.status, Detail: err.Error(), Do: one.do})
		}
	}
	if full, ok := errors.AsType[*pins.FullError](err); ok {
		return filled(api.Error{
			Type: "urn:hubcap:pins-exceed-cache", Title: "The pins do not fit", Status: http.StatusConflict,
			Detail: full.Error(), Do: "unpin something or raise HUBCAP_CACHE_SIZE",
		})
	}
	if found, ok := errors.AsType[*warm.Error](err); ok {
		return filled(api.Error{Type: "urn:hubcap:not-fetched", Status: http.StatusBadGateway, Detail: found.Error()})
	}
	return filled(api.Error{Status: http.StatusInternalServerError, Detail: err.Error()})
}
