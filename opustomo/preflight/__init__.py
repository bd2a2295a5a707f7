"""What can be known of a run before its first step: does the set fit together, and will it fit the GPU?"""
