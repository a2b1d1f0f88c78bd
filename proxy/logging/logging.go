// Package logging writes the log without making anyone wait for it. Lines go
// into a bounded buffer, which one goroutine writes to the file; lines that find
// no room are counted and dropped. The package knows log/slog, and nothing of
// the other rooms.
//
// Files: logging.go (the log), capture.go (what others write to standard error).
package logging

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Options is what New needs; every field is required.
type Options struct {
	Out    io.Writer
	JSON   bool // one JSON object a line, instead of key=value pairs
	Level  slog.Level
	Buffer int // bytes of lines that may wait to be written; as many again may be in the write under way
}

// Log is a logger whose callers never wait for Out. Its methods may be called
// from any goroutine.
type Log struct {
	*slog.Logger
	out    io.Writer
	limit  int
	notice slog.Handler // writes into note
	lost   atomic.Uint64
	done   chan struct{} // closed when the writing goroutine has ended

	mu       sync.Mutex
	changed  sync.Cond    // any field below
	pending  []byte       // whole lines, to be written next
	overflow int          // lines dropped since pending became full; they come after it
	missing  int          // lines lost before pending, not yet reported in the log
	note     bytes.Buffer // the line that reports them
	put, got uint64       // bytes accepted so far, and bytes written or lost since
	closed   bool
}

// New returns a log that writes to o.Out until Close.
func New(o Options) *Log {
	l := &Log{out: o.Out, limit: o.Buffer, done: make(chan struct{})}
	l.changed.L = &l.mu
	handler := func(w io.Writer) slog.Handler {
		if o.JSON {
			return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: o.Level})
		}
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: o.Level})
	}
	l.Logger, l.notice = slog.New(handler(queue{l})), handler(&l.note)
	go l.write()
	return l
}

// Lost is how many lines were dropped so far, or could not be written.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// Flush waits until the lines logged before the call are written, or until the
// time within has passed.
func (l *Log) Flush(within time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := false
	timer := time.AfterFunc(within, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.changed.Broadcast()
	})
	defer timer.Stop()
	for want := l.put; l.got < want && !late; {
		l.changed.Wait()
	}
}

// Close writes what is buffered, for the time within at most, and ends the log:
// later lines are lost. A write that Out never returns from is left behind.
func (l *Log) Close(within time.Duration) {
	l.mu.Lock()
	l.closed = true
	l.changed.Broadcast()
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-time.After(within):
	}
}

// queue is where slog's handler writes; each call brings one line.
type queue struct{ *Log }

// Write implements io.Writer. It never blocks and never fails.
func (q queue) Write(line []byte) (int, error) {
	l := q.Log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.overflow > 0 || len(l.pending)+len(line) > l.limit {
		l.overflow++
		l.lost.Add(1)
		return len(line), nil
	}
	if len(l.pending) == 0 {
		l.changed.Broadcast()
	}
	l.pending = append(l.pending, line...)
	l.put += uint64(len(line))
	return len(line), nil
}

// batch is what is written at a time.
type batch struct {
	text   []byte
	notice int    // bytes at the beginning that report lost lines
	lost   int    // how many lines they report
	size   uint64 // bytes of lines, without the notice
}

// write is the goroutine that writes.
func (l *Log) write() {
	defer close(l.done)
	var b batch
	for torn := false; ; {
		var ok bool
		if b, ok = l.take(b.text[:0], torn); !ok {
			return
		}
		n, err := l.out.Write(b.text)
		torn = err != nil && (torn && n == 0 || n > 0 && b.text[n-1] != '\n')
		l.wrote(b, n, err)
	}
}

// take waits for lines and returns them with room as the memory for the next
// ones; ok is false when the log has ended. The batch begins with the report of
// the lines lost before it, and with a line break where the last write left an
// incomplete line.
func (l *Log) take(room []byte, torn bool) (b batch, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) == 0 && !l.closed {
		l.changed.Wait()
	}
	if len(l.pending) == 0 && l.missing == 0 {
		return batch{}, false
	}
	b = batch{size: uint64(len(l.pending)), lost: l.missing}
	if torn {
		room = append(room, '\n')
	}
	if l.missing > 0 {
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log were lost", 0)
		r.AddAttrs(slog.Int("lines", l.missing))
		l.note.Reset()
		_ = l.notice.Handle(context.Background(), r) // a bytes.Buffer takes it
		room = append(room, l.note.Bytes()...)
	}
	b.notice = len(room)
	if b.notice == 0 {
		b.text, l.pending = l.pending, room
	} else {
		room = append(room, l.pending...)
		b.text, l.pending = room, l.pending[:0]
	}
	l.missing, l.overflow = l.overflow, 0
	return b, true
}

// wrote notes that the first n bytes of b were written. The lines of the rest
// are lost when there was an error: trying again would fail for as long.
func (l *Log) wrote(b batch, n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		lines := bytes.Count(b.text[max(n, b.notice):], []byte("\n"))
		l.lost.Add(uint64(lines)) //nolint:gosec // a count
		l.missing += lines
		if n < b.notice && !l.closed {
			l.missing += b.lost
		}
		if l.closed {
			l.missing = 0 // the log has ended
		}
	}
	l.got += b.size
	l.changed.Broadcast()
}
