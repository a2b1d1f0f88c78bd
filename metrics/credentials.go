package metrics

// CredentialFailure is why the box's credentials failed for a request.
type CredentialFailure uint8

// The reasons.
const (
	Unavailable CredentialFailure = iota // their source gave none
	Refused                              // the registry or its token service does not accept them
	Forbidden                            // they are accepted, without a right to the repository
	credentialFailures
)

var credentialFailureNames = [credentialFailures]string{"unavailable", "refused", "forbidden"}

func (f CredentialFailure) String() string { return credentialFailureNames[f] }
