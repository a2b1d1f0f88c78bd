package admin

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"hubcap/proxy/admin/api"
)

const (
	beatEvery  = 15 * time.Second // a stream on which nothing happens says so
	writeEvent = 10 * time.Second // a reader that takes longer is dropped
	streamFor  = time.Hour        // then the reader comes back, if it still may
)

// eventTypes are the kinds of events, and what each tells.
var eventTypes = map[string]reflect.Type{
	api.EventJob:      reflect.TypeFor[api.Job](),
	api.EventFill:     reflect.TypeFor[api.Fill](),
	api.EventEviction: reflect.TypeFor[api.EvictionEvent](),
	api.EventTag:      reflect.TypeFor[api.Tag](),
	api.EventProblem:  reflect.TypeFor[api.ProblemEvent](),
	api.EventUpstream: reflect.TypeFor[api.UpstreamEvent](),
}

// streamEvents registers the stream of events.
func streamEvents(a huma.API, events *Events) {
	op := operation(http.MethodGet, "events", "What happens, as it happens (server-sent events)")
	kinds := make(map[string]any)
	for kind, t := range eventTypes {
		kinds[kind] = a.OpenAPI().Components.Schemas.Schema(t, true, "")
	}
	op.Description = "x-events has the data of each kind. Begin and end have an id, by which a reader gets what it has missed; progress has none."
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A stream without an end",
		Content: map[string]*huma.MediaType{"text/event-stream": {
			Schema: &huma.Schema{Type: huma.TypeString}, Extensions: map[string]any{"x-events": kinds},
		}},
	}}
	huma.Register(a, op, func(_ context.Context, q *api.EventsQuery) (*huma.StreamResponse, error) {
		r, missed, ok := events.listen(q)
		if !ok {
			return nil, asError(&api.Error{Status: http.StatusServiceUnavailable, Detail: "too many listen to the events, or hubcap ends"})
		}
		return streamed(func(w http.ResponseWriter, req *http.Request) {
			defer events.leave(r)
			w.Header().Set("Content-Type", "text/event-stream")
			stream{w, http.NewResponseController(w)}.run(req.Context(), r, missed)
		}), nil
	})
}

// stream is the answer to one reader.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// run sends events until the reader leaves or is dropped.
func (s stream) run(ctx context.Context, r *reader, missed []event) {
	ctx, cancel := context.WithTimeout(ctx, streamFor)
	defer cancel()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	ok := s.send(": hubcap\n\n") // so that the head is sent at once
	for _, one := range missed {
		ok = ok && s.event(one)
	}
	for ok {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			ok = s.send(":\n\n")
		case one, more := <-r.events:
			ok = more && s.event(one)
		}
	}
}

func (s stream) event(e event) bool {
	id := ""
	if e.id > 0 {
		id = fmt.Sprintf("id: %d\n", e.id)
	}
	return s.send(fmt.Sprintf("%sevent: %s\ndata: %s\n\n", id, e.kind, e.data))
}

// send reports whether the reader has taken a text.
func (s stream) send(text string) bool {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeEvent)); err != nil {
		return false
	}
	if _, err := s.w.Write([]byte(text)); err != nil {
		return false
	}
	return s.control.Flush() == nil
}
