package admin

import (
	"encoding/json"
	"slices"
	"sync"

	"hubcap/proxy/admin/api"
)

const (
	keptEvents = 1000 // for those who come back
	maxReaders = 32   // of the stream: half of the port's connections
	unread     = 256  // events that a reader may be behind, before it is dropped
)

// Events are what has happened, for those who listen. The methods are safe for
// concurrent use, and none waits for a reader.
type Events struct {
	mu      sync.Mutex
	last    int64 // id of the last event
	kept    []event
	readers map[*reader]struct{} // nil after Close
}

// event is one in the form in which it is sent.
type event struct {
	id   int64 // 0 for progress, which is not kept
	kind string
	data []byte // JSON
}

// reader is one who listens.
type reader struct {
	events chan event // closed when the reader is dropped
	kinds  []string   // empty for all
}

func (r *reader) takes(kind string) bool { return len(r.kinds) == 0 || slices.Contains(r.kinds, kind) }

// NewEvents returns events whose ids begin above first. To who comes back with an
// id of an earlier run, all are new if first is the time of the start in
// milliseconds.
func NewEvents(first int64) *Events {
	return &Events{last: first, readers: make(map[*reader]struct{})}
}

// Publish tells of what has happened.
func (e *Events) Publish(kind string, data any) { e.send(kind, data, true) }

// progress tells those who listen now of the progress of something.
func (e *Events) progress(kind string, data any) { e.send(kind, data, false) }

func (e *Events) send(kind string, data any, keep bool) {
	text, err := json.Marshal(data)
	if err != nil {
		text = []byte("{}") // cannot be: api's types have nothing that JSON has no form for
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	one := event{kind: kind, data: text}
	if keep {
		e.last++
		one.id = e.last
		e.kept = append(e.kept, one)
		e.kept = slices.Delete(e.kept, 0, max(0, len(e.kept)-keptEvents))
	}
	for r := range e.readers {
		if !r.takes(kind) {
			continue
		}
		select {
		case r.events <- one:
		default:
			e.drop(r)
		}
	}
}

// drop ends a reader that is too far behind. e.mu is held.
func (e *Events) drop(r *reader) {
	delete(e.readers, r)
	close(r.events)
}

// listened reports whether anybody listens.
func (e *Events) listened() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.readers) > 0
}

// listen returns a new reader and the kept events after an id; for an id of 0
// there are none. ok is false if there are too many readers. The caller calls
// leave at the end.
func (e *Events) listen(q *api.EventsQuery) (r *reader, missed []event, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.readers == nil || len(e.readers) >= maxReaders {
		return nil, nil, false
	}
	r = &reader{events: make(chan event, unread), kinds: q.Kind}
	e.readers[r] = struct{}{}
	for _, one := range e.kept {
		if q.LastEventID > 0 && one.id > q.LastEventID && r.takes(one.kind) {
			missed = append(missed, one)
		}
	}
	return r, missed, true
}

func (e *Events) leave(r *reader) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, here := e.readers[r]; here {
		e.drop(r)
	}
}

// Close ends all readers, and lets in no more.
func (e *Events) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for r := range e.readers {
		e.drop(r)
	}
	e.readers = nil
}
