package credentials

import "time"

// Status is the state of a registry's credentials at one moment. It holds no
// secret.
type Status struct {
	Kind     Kind      // empty for a configured username and password
	Usable   bool      // they are shown to the registry at present
	Accepted time.Time // when they last were; zero for never
	Refused  bool      // they are held back, because the registry has lately refused them
	Failure  string    // of the last attempt to get them from their source; empty for none
	Renew    time.Time // when the source is next asked
	Ends     time.Time // when those at hand end, as far as that is known; zero without any
}

// Status returns the state of the credentials. It asks nothing.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{
		Usable: k.usable(), Accepted: k.accepted, Refused: time.Now().Before(k.aside), Ends: k.end,
		Renew: k.renew,
	}
	if k.rest.After(s.Renew) {
		s.Renew = k.rest
	}
	if k.failure != nil {
		s.Failure = k.failure.Error()
	}
	return s
}
