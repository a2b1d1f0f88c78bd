package e2e

import (
	"bytes"
	"io"
	"sync"
)

// gate holds content back from an offset on, until it is opened.
type gate struct {
	content []byte
	offset  int64
	opened  chan struct{}
	open    func()
}

func newGate(content []byte, offset int64) *gate {
	g := &gate{content: content, offset: offset, opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	return g
}

// reader is one request's way through the gate.
func (g *gate) reader() (io.ReadSeekCloser, error) {
	return &gateReader{gate: g, content: bytes.NewReader(g.content)}, nil
}

type gateReader struct {
	gate    *gate
	content *bytes.Reader // not embedded: its WriteTo would go round the gate
}

func (r *gateReader) Read(p []byte) (int, error) {
	room := r.gate.offset - (r.content.Size() - int64(r.content.Len()))
	select {
	case <-r.gate.opened:
	default:
		if room <= 0 {
			<-r.gate.opened
		} else if int64(len(p)) > room {
			p = p[:room]
		}
	}
	return r.content.Read(p)
}

func (r *gateReader) Seek(offset int64, whence int) (int64, error) {
	return r.content.Seek(offset, whence)
}

func (r *gateReader) Close() error { return nil }
