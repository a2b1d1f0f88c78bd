package upstream

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"
)

// lookEvery is how often a file of certificates is checked for changes, while
// registries are asked.
const lookEvery = time.Second

// CAFile is a file of PEM certificates of authorities. It is read again when it
// changes; if that fails, the previous certificates stay. Several registries may
// share it.
type CAFile struct {
	path string

	mu      sync.Mutex
	pem     []byte
	version int         // counts the changes of pem
	seen    fs.FileInfo // of the file when it was last read, successfully or not; nil when it was not there
	looked  time.Time
}

var errNoCertificate = errors.New("it holds no certificate")

// ReadCAFile reads a file for the first time. The error does not name it.
func ReadCAFile(path string) (*CAFile, error) {
	f := &CAFile{path: path}
	f.seen, _ = os.Stat(path)
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// Path returns the file's name.
func (f *CAFile) Path() string { return f.path }

func (f *CAFile) read() error {
	pem, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("it cannot be read: %w", errors.Unwrap(err))
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errNoCertificate
	}
	f.pem = pem
	return nil
}

// current returns the certificates and their version.
func (f *CAFile) current(now time.Time, log *slog.Logger) (pem []byte, version int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.looked) >= lookEvery {
		f.looked = now
		f.reload(log)
	}
	return f.pem, f.version
}

// reload reads the file if it has changed. f.mu is held.
func (f *CAFile) reload(log *slog.Logger) {
	info, _ := os.Stat(f.path) // reading reports the error
	if info == nil && f.seen == nil || info != nil && f.seen != nil && os.SameFile(info, f.seen) &&
		info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return
	}
	f.seen = info
	if err := f.read(); err != nil {
		log.Warn("a changed file of authorities' certificates cannot be used; those read before stay trusted", "file", f.path, "err", err)
		return
	}
	f.version++
	log.Info("a changed file of authorities' certificates is trusted from now on", "file", f.path)
}

// authorities are the certificate authorities trusted for a registry: the
// system's and those of files.
type authorities struct {
	files []*CAFile
	now   func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	versions int // of all files together, when pool was made
	pool     *x509.CertPool
}

func (o Options) authorities() *authorities {
	return &authorities{files: o.CAFiles, now: o.Now, log: o.Log}
}

// Authorities returns what returns the trusted certificates at any time: the
// system's and those of files; nil for the system's alone.
func Authorities(files []*CAFile, now func() time.Time, log *slog.Logger) func() *x509.CertPool {
	return (&authorities{files: files, now: now, log: log}).current
}

// current returns the certificates as one pool, the same until a file changes; nil
// for the system's alone.
func (a *authorities) current() *x509.CertPool {
	if len(a.files) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := 0
	pems := make([][]byte, len(a.files))
	for i, f := range a.files {
		var version int
		pems[i], version = f.current(a.now(), a.log)
		sum += version
	}
	if a.pool == nil || sum != a.versions {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, pem := range pems {
			pool.AppendCertsFromPEM(pem)
		}
		a.pool, a.versions = pool, sum
	}
	return a.pool
}

// renewed is an http.Transport that is replaced when the authorities change.
// Running requests keep their connections; later ones get none that was made
// under the previous authorities.
type renewed struct {
	authorities *authorities
	make        func(*x509.CertPool) *http.Transport

	mu      sync.Mutex
	pool    *x509.CertPool
	current *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (r *renewed) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.transport().RoundTrip(req)
}

// closeIdle closes the idle connections.
func (r *renewed) closeIdle() { r.transport().CloseIdleConnections() }

func (r *renewed) transport() *http.Transport {
	pool := r.authorities.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil || pool != r.pool {
		if r.current != nil {
			defer r.current.CloseIdleConnections() // also those that become idle later
		}
		r.pool, r.current = pool, r.make(pool)
	}
	return r.current
}
