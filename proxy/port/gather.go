package port

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// gatherSize is how many bytes of a body are encrypted and then written together: a
// TLS record has at most 16 KiB, and crypto/tls makes a system call of each. While it
// sends, a connection has two buffers of this size.
const gatherSize = 128 << 10

// overhead is more than the headers and tags of the records of one buffer.
const overhead = 1 << 10

var (
	plainBuffers  = sync.Pool{New: func() any { return new([gatherSize]byte) }}
	sealedBuffers = sync.Pool{New: func() any { return new([gatherSize + overhead]byte) }}
)

// gather is the records that are to be written together. crypto/tls writes them, and
// an alert may come from another goroutine.
type gather struct {
	mu  sync.Mutex
	buf []byte // nil while each record is written at once
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if c.gather == nil {
		return c.TCPConn.Write(p)
	}
	c.gather.mu.Lock()
	defer c.gather.mu.Unlock()
	if len(p) > cap(c.gather.buf)-len(c.gather.buf) {
		if err := c.flush(); err != nil {
			return 0, err
		}
		return c.TCPConn.Write(p)
	}
	c.gather.buf = append(c.gather.buf, p...)
	return len(p), nil
}

// flush writes what is gathered. gather.mu is held.
func (c *conn) flush() error {
	if len(c.gather.buf) == 0 {
		return nil
	}
	_, err := c.TCPConn.Write(c.gather.buf)
	c.gather.buf = c.gather.buf[:0]
	return err
}

// gathering calls write and gathers in buf what that writes.
func (c *conn) gathering(buf []byte, write func() error) error {
	c.gather.mu.Lock()
	c.gather.buf = buf[:0]
	c.gather.mu.Unlock()
	err := write()
	c.gather.mu.Lock()
	defer c.gather.mu.Unlock()
	err = errors.Join(err, c.flush())
	c.gather.buf = nil
	return err
}

// securedWriter is the response of a request over TLS.
type securedWriter struct {
	http.ResponseWriter
	conn *conn
}

// Unwrap is for http.ResponseController.
func (w *securedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ReadFrom implements io.ReaderFrom for bodies.
func (w *securedWriter) ReadFrom(r io.Reader) (sent int64, err error) {
	plain, sealed := plainBuffers.Get().(*[gatherSize]byte), sealedBuffers.Get().(*[gatherSize + overhead]byte)
	defer plainBuffers.Put(plain)
	defer sealedBuffers.Put(sealed)
	for {
		n, rerr := r.Read(plain[:])
		if n > 0 {
			var m int
			err := w.conn.gathering(sealed[:], func() (err error) {
				m, err = w.Write(plain[:n])
				return err
			})
			sent += int64(m)
			if err != nil {
				return sent, err
			}
		}
		switch {
		case rerr == io.EOF:
			return sent, nil
		case rerr != nil:
			return sent, rerr
		}
	}
}
