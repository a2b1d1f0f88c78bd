package admin

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"hubcap/proxy/admin/api"
)

func init() { huma.NewError, huma.DefaultArrayNullable = newError, false }

// newError makes the errors that huma finds: unknown fields, values that are not
// allowed. What the client sent is not repeated.
func newError(status int, detail string, errs ...error) huma.StatusError {
	e := api.Error{Status: status, Detail: detail}
	for _, err := range errs {
		if found, ok := err.(huma.ErrorDetailer); ok { //nolint:errorlint // huma wraps none
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

// asError returns the answer for a room's error.
func asError(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return filled(*e)
	}
	return filled(api.Error{Status: http.StatusInternalServerError, Detail: err.Error()})
}
