package api

import "fmt"

// Error is an answer of status 400 and above: application/problem+json (RFC 9457)
// with what to do.
type Error struct {
	Type   string        `json:"type" doc:"Ends in the kind of error; about:blank when the status says it all"`
	Title  string        `json:"title"`
	Status int           `json:"status"`
	Detail string        `json:"detail,omitempty" doc:"What is wrong in this case"`
	Do     string        `json:"do,omitempty" doc:"What to do about it"`
	Errors []FieldErrors `json:"errors,omitempty" doc:"What is wrong with the fields of the request"`
}

// FieldErrors is what is wrong with a field of a request.
type FieldErrors struct {
	Location string `json:"location,omitempty" doc:"Such as query.limit or body.ref"`
	Message  string `json:"message"`
}

// Error implements error.
func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	for _, one := range e.Errors {
		text = fmt.Sprintf("%s; %s: %s", text, one.Location, one.Message)
	}
	return text
}

// GetStatus returns the HTTP status (huma.StatusError).
func (e *Error) GetStatus() int { return e.Status }

// ContentType returns the type of the answer (huma.ContentTypeFilter).
func (e *Error) ContentType(string) string { return "application/problem+json" }
