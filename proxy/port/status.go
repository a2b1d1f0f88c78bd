package port

import (
	"net/netip"
	"time"

	"hubcap/metrics"
)

// Status is the state of a Port at one moment.
type Status struct {
	Name        string
	Certificate *CertificateStatus // nil without TLS
	TLSClient   netip.Addr         // that last spoke TLS, and nothing else, to this port without TLS; invalid for none
	TLSAt       time.Time          // when it did
}

// CertificateStatus is the state of a port's certificate. The files are looked
// at when clients connect.
type CertificateStatus struct {
	File    string
	Expires time.Time // of the one in use
	Failure string    // why the files could not be used when they last changed; empty when they could
}

// Status returns the state of the port.
func (p *Port) Status() Status {
	s := Status{Name: p.name}
	if p.certificate != nil {
		s.Certificate = p.certificate.status()
	}
	if p.plain != nil {
		s.TLSClient, s.TLSAt = p.plain.last()
	}
	return s
}

func (c *certificate) status() *CertificateStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &CertificateStatus{File: c.CertFile, Expires: c.current.Leaf.NotAfter}
	if c.failure != nil {
		s.Failure = c.failure.Error()
	}
	return s
}

// LimitsStatus is the state of Limits at one moment.
type LimitsStatus struct {
	Open, Waiting int                                   // connections
	Total         int                                   // that may be open
	PerClient     int                                   // of them, of one address
	Met           map[metrics.ConnectionLimit]time.Time // when limits were last met; without those never met
}

// Status returns the state of the limits.
func (l *Limits) Status() LimitsStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := LimitsStatus{
		Open: len(l.open), Waiting: int(l.queued.Load()), Total: l.Total, PerClient: l.PerClient,
		Met: make(map[metrics.ConnectionLimit]time.Time),
	}
	for limit, at := range l.last {
		if !at.IsZero() {
			s.Met[metrics.ConnectionLimit(limit)] = at
		}
	}
	return s
}
