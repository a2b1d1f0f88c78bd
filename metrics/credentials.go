package metrics

// Useless is why the box's credentials were of no use to a request.
type Useless uint8

// The reasons.
const (
	Unavailable Useless = iota // their source has not given them out
	Refused                    // the registry or its token service does not accept them
	Forbidden                  // they are accepted, and do not open the repository
	uselessReasons
)

var uselessNames = [uselessReasons]string{"unavailable", "refused", "forbidden"}

func (u Useless) String() string { return uselessNames[u] }

// exportUseless has the series there before they count.
func (u *Upstream) exportUseless() {
	for _, name := range uselessNames {
		u.limits.useless.WithLabelValues(u.host, name)
	}
}

// Useless notes a request for which the credentials were of no use.
func (u *Upstream) Useless(why Useless) {
	u.limits.useless.WithLabelValues(u.host, why.String()).Inc()
}
