package credentials

import "time"

// Status is the state of a registry's credentials at one moment. It holds no
// secret.
type Status struct {
	Kind      Kind      `json:"kind" doc:"Where they come from; empty for a configured user name and password"`
	Usable    bool      `json:"usable" doc:"They are shown to the registry at present"`
	Accepted  time.Time `json:"accepted,omitzero" doc:"When the registry last accepted them"` // zero for never
	Refused   bool      `json:"refused" doc:"They are held back, because the registry has lately refused them"`
	RefusedAt time.Time `json:"-"` // when the registry last refused them; zero when it has accepted them since
	Failure   string    `json:"failure,omitempty" doc:"Of the last attempt to get them from where they come from"`
	Asked     time.Time `json:"-"`                                          // when the source was last asked; zero for never
	Renewed   bool      `json:"-"`                                          // the source is asked again; false for what the environment holds
	Renew     time.Time `json:"-"`                                          // when the source is next asked
	Ends      time.Time `json:"ends,omitzero" doc:"When those at hand end"` // as far as that is known; zero without any
}

// Status returns the state of the credentials. It asks nothing.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{
		Usable: k.usable(), Accepted: k.accepted, Refused: time.Now().Before(k.aside), RefusedAt: k.refused, Ends: k.end,
		Asked: k.asked, Renew: k.renew, Renewed: true,
	}
	if g, ok := k.source.(given); ok {
		s.Renewed = g.UsernameFile+g.PasswordFile+g.TokenFile != ""
	}
	if k.rest.After(s.Renew) {
		s.Renew = k.rest
	}
	if k.failure != nil {
		s.Failure = k.failure.Error()
	}
	return s
}
